// Tiles of rows times an unpacked block on VNNI: the integer sums and the float totals of six rows and 32 columns stay in
// registers over all groups of the block. Included by linear_grouped_avx512.cpp.
#pragma once
#include "cpu/kernels/grouped_lanes_avx512.h"
#include "cpu/kernels/linear_grouped_gemm.h"
#include "cpu/kernels/unrolled.h"

namespace torchqat::cpu {
namespace {

constexpr int64_t kTileRows = 6, kTileColumns = 32;

// Half the columns of a panel, some groups of them.
struct UnpackedColumns {
  uint8_t* codes;  // [group][group_padded / 4][32][4]
  int32_t* words;  // [group][32]: see BlockForm
  float* scale;    // [group][64], at the first of the columns
  int64_t groups;
};

// Lines of 64 bytes that will be wanted soon, asked for a few at a time: so many each time.
struct Soon {
  const uint8_t *weight = nullptr, *scale = nullptr;
  int64_t weight_lines = 0, scale_lines = 0;

  TORCHQAT_INLINE void ask() {
    for (int64_t l = 0; l < weight_lines; ++l, weight += 64) Lanes::prefetch_far(weight);
    for (int64_t l = 0; l < scale_lines; ++l, scale += 64) Lanes::prefetch_far(scale);
  }
};

// Where a panel's finished rows go.
struct Finish {
  float* out = nullptr;  // null: totals stay totals
  int64_t ldo = 0;
  const float *input_scale = nullptr, *bias = nullptr;
  int64_t input_stride = 0;
};

struct TileArguments {
  const uint8_t* a;           // as rows_to_strips leaves them, at the block's first k
  const int32_t* row_words;   // [groups][6], what the words of the weights are multiplied by: see BlockForm
  float* total;               // [rows][64], as block.scale
  int64_t quads;              // of k in a group
  int64_t to_next;            // bytes from this tile's rows to the next one's
  bool first;                 // totals begin at 0
  Finish finish;
  Soon soon;
};

// What a step of a tile is made of, in the order written and from one address each: left to itself gcc loads ahead until
// totals leave the registers, keeps an address for every constant distance, and makes zeros by copying one. They read what
// was written before the tile was called.
template <int64_t at>
TORCHQAT_INLINE __m512i load_now(const void* p) {
  __m512i x;
  asm volatile("vmovdqu64 %c2(%1), %0" : "=v"(x) : "r"(p), "i"(at));
  return x;
}

template <int64_t at>
TORCHQAT_INLINE __m512i broadcast_now(const void* p) {
  __m512i x;
  asm volatile("vpbroadcastd %c2(%1), %0" : "=v"(x) : "r"(p), "i"(at));
  return x;
}

TORCHQAT_INLINE void dot_now(__m512i& sum, __m512i u, __m512i s) {
  asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
}

template <int64_t at>
TORCHQAT_INLINE __m512i product_now(__m512i weight_sum, const int32_t* z) {
  __m512i x;
  asm volatile("vpxord %0, %0, %0\n\tvpdpwssd %c3(%2)%{1to16%}, %1, %0" : "=&v"(x) : "v"(weight_sum), "r"(z), "i"(at));
  return x;
}

template <int rows, int vectors>
TORCHQAT_INLINE void begin_totals(const TileArguments& f, numerics::Vec (&t)[rows][vectors]) {
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int c = 0; c < vectors; ++c) {
      t[r][c] = f.first ? numerics::Vec(0.0f) : numerics::Vec::load(f.total + r * kGroupedColumns + c * Lanes::columns);
    }
  }
}

template <int rows, int vectors>
TORCHQAT_INLINE void end_totals(const TileArguments& f, const numerics::Vec (&t)[rows][vectors]) {
  using numerics::Vec;
  const Finish& to = f.finish;
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int c = 0; c < vectors; ++c) {
      const int at = c * Lanes::columns;
      if (to.out == nullptr) {
        t[r][c].store(f.total + r * kGroupedColumns + at);
        continue;
      }
      Vec y = numerics::grouped_layer_value(t[r][c], Vec(to.input_scale[r * to.input_stride]));
      if (to.bias != nullptr) y = y + Vec::load(to.bias + at);
      y.store(to.out + r * to.ldo + at);
    }
  }
}

template <int rows, int step>
__attribute__((noinline)) void register_tile(const TileArguments& f, const UnpackedColumns& block) {
  using numerics::Vec;
  constexpr int vectors = kTileColumns / Lanes::columns;
  const int64_t steps = f.quads / step;
  const int64_t to_next = f.to_next;
  Soon soon = f.soon;
  Vec t[rows][vectors];
  begin_totals(f, t);
  const uint8_t *b = block.codes, *x = f.a;
  const int32_t *row_words = f.row_words, *words = block.words, *end = words + block.groups * kTileColumns;
  const float* scale = block.scale;
  for (; words != end; words += kTileColumns, scale += kGroupedColumns, row_words += kTileRows) {
    soon.ask();
    __m512i acc[rows][vectors];
    const __m512i below[vectors] = {load_now<0>(words), load_now<64>(words)};
    unrolled<rows>([&](auto r) __attribute__((always_inline)) {
      acc[r][0] = product_now<4 * r>(below[0], row_words);
      acc[r][1] = product_now<4 * r>(below[1], row_words);
    });
    int64_t left = steps;
    do {
      if constexpr (step == 8) {
        Lanes::prefetch(x + to_next);
        Lanes::prefetch(x + to_next + 64);
        Lanes::prefetch(x + to_next + 128);
      }
      unrolled<step>([&](auto q) __attribute__((always_inline)) {
        const __m512i s[vectors] = {load_now<q * 4 * kTileColumns>(b), load_now<q * 4 * kTileColumns + 64>(b)};
        unrolled<rows>([&](auto r) __attribute__((always_inline)) {
          const __m512i u = broadcast_now<4 * step * r + 4 * q>(x);
          dot_now(acc[r][0], u, s[0]);
          dot_now(acc[r][1], u, s[1]);
        });
      });
      b += step * 4 * kTileColumns;
      x += step * 4 * kTileRows;
    } while (--left != 0);
    const Vec by[vectors] = {Vec::load(scale), Vec::load(scale + Lanes::columns)};
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int c = 0; c < vectors; ++c) t[r][c] = numerics::add_group(t[r][c], Lanes::to_float(acc[r][c]), by[c]);
    }
  }
  end_totals(f, t);
}

template <int step>
inline void register_tile_of(int64_t rows, const TileArguments& f, const UnpackedColumns& block) {
  switch (rows) {
    case 1: return register_tile<1, step>(f, block);
    case 2: return register_tile<2, step>(f, block);
    case 3: return register_tile<3, step>(f, block);
    case 4: return register_tile<4, step>(f, block);
    case 5: return register_tile<5, step>(f, block);
    default: return register_tile<6, step>(f, block);
  }
}

// The block that follows, in the panel or as the next panel's first, asked for by `tiles` calls of a tile.
class NextBlock {
 public:
  NextBlock(const GroupedInt8& g, int64_t panel, int64_t group, int64_t groups, int64_t tiles) : times_(groups) {
    const GroupedLayout& w = g.w;
    const auto each_time = [&](int64_t lines) { return (lines + tiles * times_ - 1) / (tiles * times_); };
    all_.weight = g.weight + panel * w.panel_bytes + (group + groups) * w.group_bytes;
    weight_lines_ = groups * w.group_bytes / 64;
    all_.weight_lines = each_time(weight_lines_);
    if (is_direct(w, g.scale, panel) && g.scale.group_stride == kGroupedColumns) {
      all_.scale = scale_address(g.scale, panel * g.scale.panel_stride + (group + groups) * kGroupedColumns);
      scale_lines_ = groups * kGroupedColumns * (g.scale.type == ScaleType::float32 ? 4 : 2) / 64;
      all_.scale_lines = each_time(scale_lines_);
    }
  }

  Soon part(int64_t tile) const {
    Soon soon;
    const int64_t weight = tile * times_ * all_.weight_lines, scale = tile * times_ * all_.scale_lines;
    if (weight < weight_lines_) soon.weight_lines = all_.weight_lines;
    if (scale < scale_lines_) soon.scale_lines = all_.scale_lines;
    soon.weight = all_.weight + 64 * weight;
    soon.scale = all_.scale + 64 * scale;
    return soon;
  }

 private:
  Soon all_;
  int64_t times_, weight_lines_ = 0, scale_lines_ = 0;
};

// In which form a block's codes and sums are held, u = q + offset being the stored code. Every integer sum begins with the
// product of a word of the column and a word of the row, each two 16-bit numbers:
//   signed:    codes q; (sum q)_high7 (sum q)_low7 times -128 z, -z
//   unsigned:  codes u, which costs less to unpack; sum u, offset times -z, sum z - x. Where these fit in 16 bits.
enum class BlockForm { with_signed, with_unsigned };

template <int slot>
inline BlockForm block_form(const GroupedLayout& w) {
  return slot < 8 && w.group_padded <= 128 ? BlockForm::with_unsigned : BlockForm::with_signed;
}

template <int slot, BlockForm form>
inline void unpack_columns(const GroupedInt8& g, int64_t panel, int64_t column, int64_t group, const UnpackedColumns& block) {
  const GroupedLayout& w = g.w;
  constexpr int quads = 8 / slot;
  constexpr bool is_signed = form == BlockForm::with_signed;
  const int64_t lines = w.group_bytes / kGroupedLine;
  const __m512i one = _mm512_set1_epi8(1), offset = _mm512_set1_epi8(static_cast<char>(w.offset));
  const __m512i begin = is_signed ? _mm512_setzero_si512() : _mm512_set1_epi32(w.offset << 16);
  const uint8_t* line = g.weight + panel * w.panel_bytes + group * w.group_bytes + 4 * column;
  uint8_t* out = block.codes;
  for (int64_t i = 0; i < block.groups; ++i) {
    __m512i sum[2] = {begin, begin};
    for (int64_t l = 0; l < lines; ++l, line += kGroupedLine, out += quads * 4 * kTileColumns) {
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) {
        const __m512i bytes = Lanes::load_bytes(line + 64 * c);
#pragma GCC unroll 4
        for (int j = 0; j < quads; ++j) {
          const __m512i u = Lanes::field<slot>(bytes, j), code = is_signed ? Lanes::subtract_bytes(u, offset) : u;
          _mm512_store_si512(out + j * 4 * kTileColumns + 64 * c, code);
          Lanes::dot<true>(sum[c], one, code);
        }
      }
    }
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) Lanes::store(block.words + i * kTileColumns + 16 * c, is_signed ? Lanes::split_sum(sum[c]) : sum[c]);
  }
}

// The sum of `count` bytes.
TORCHQAT_INLINE int32_t sum_bytes(const uint8_t* x, int64_t count) {
  __m128i sum = _mm_setzero_si128();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    sum = _mm_add_epi64(sum, _mm_sad_epu8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)), _mm_setzero_si128()));
  }
  int32_t all = _mm_cvtsi128_si32(sum) + _mm_cvtsi128_si32(_mm_unpackhi_epi64(sum, sum));
  for (; i < count; ++i) all += x[i];
  return all;
}

// Codes of `rows` rows to [tile][k / step][row of the tile][step]: what a tile reads lies at constant distances. words:
// [tile][group][row of the tile].
inline void rows_to_strips(const GroupedInt8& g, int64_t first, int64_t rows, int64_t step, BlockForm form, uint8_t* out,
                           int32_t* words) {
  const GroupedLayout& w = g.w;
  const int64_t k = w.k_padded();
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* x = g.codes + (first + r) * g.lda;
    const int64_t tile = r / kTileRows * kTileRows;
    uint8_t* to = out + tile * k + r % kTileRows * step;
    if (step == 32) {
      for (int64_t i = 0; i < k; i += 32, to += 32 * kTileRows) std::memcpy(to, x + i, 32);
    } else {
      for (int64_t i = 0; i < k; i += 4, to += 4 * kTileRows) std::memcpy(to, x + i, 4);
    }
    const int32_t z = g.zero_point[(first + r) * g.input_stride];
    int32_t* word = words + tile * w.groups + r % kTileRows;
    for (int64_t group = 0; group < w.groups; ++group, word += kTileRows, x += w.group_padded) {
      if (form == BlockForm::with_signed) {
        *word = split_zero_point(z);
      } else {
        const int32_t difference = z * static_cast<int32_t>(w.group_padded) - sum_bytes(x, w.group_padded);
        *word = static_cast<int32_t>((static_cast<uint32_t>(difference) << 16) | (static_cast<uint32_t>(-z) & 0xffffu));
      }
    }
  }
}

template <int slot>
inline void register_gemm(const GroupedInt8& g, const GroupedRange& range) {
  const GroupedLayout& w = g.w;
  // As many groups of half the columns as there are of all of them in a block.
  const int64_t at_once = grouped_block(w) * kGroupedColumns / kTileColumns, step = w.group_padded % 32 == 0 ? 32 : 4;
  UnpackedColumns block{};
  block.codes = range.scratch;
  block.words = reinterpret_cast<int32_t*>(block.codes + at_once * w.group_padded * kTileColumns);
  auto* scale = reinterpret_cast<float*>(block.words + at_once * kTileColumns);
  float* total = scale + at_once * kGroupedColumns;
  const int64_t most = std::min(kGroupedRowsAtOnce, range.row_end - range.row_begin) + 16;
  auto* strips = reinterpret_cast<uint8_t*>(total + most * kGroupedColumns);
  const int64_t rows_at_once = grouped_strip_rows(w);
  const BlockForm form = block_form<slot>(w);
  constexpr auto narrow = slot < 8 ? BlockForm::with_unsigned : BlockForm::with_signed;
  const auto unpack = form == narrow ? &unpack_columns<slot, narrow> : &unpack_columns<slot, BlockForm::with_signed>;
  for (int64_t i = range.row_begin; i < range.row_end; i += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, range.row_end - i), tiles = (rows + kTileRows - 1) / kTileRows;
    auto* words = reinterpret_cast<int32_t*>(strips + tiles * kTileRows * w.k_padded());
    rows_to_strips(g, i, rows, step, form, strips, words);
    for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
      const int64_t first = p * kGroupedColumns, count = std::min(kGroupedColumns, w.n - first);
      const float* bias = g.bias != nullptr ? g.bias + first : nullptr;
      if (w.groups == 0) std::memset(total, 0, static_cast<size_t>(rows * kGroupedColumns) * sizeof(float));
      for (int64_t group = 0; group < w.groups; group += at_once) {
        block.groups = std::min(at_once, w.groups - group);
        gather_scales(w, g.scale, p, group, group + block.groups, scale);
        const NextBlock next(g, p, group, block.groups, 2 * tiles);
        const bool last = group + block.groups == w.groups && count == kGroupedColumns;
        int64_t call = 0;
        for (int64_t column = 0; column < count; column += kTileColumns) {
          unpack(g, p, column, group, block);
          block.scale = scale + column;
          TileArguments f{};
          f.quads = w.group_padded / 4;
          f.to_next = w.k_padded() * kTileRows;
          f.first = group == 0;
          for (int64_t r = 0; r < rows; r += kTileRows) {
            f.a = strips + r * w.k_padded() + group * w.group_padded * kTileRows;
            f.row_words = words + r * w.groups + group * kTileRows;
            f.total = total + r * kGroupedColumns + column;
            if (last) {
              f.finish = {g.out + (i + r) * g.ldo + first + column, g.ldo, g.input_scale + (i + r) * g.input_stride,
                          bias != nullptr ? bias + column : nullptr, g.input_stride};
            }
            f.soon = next.part(call++);
            const int64_t here = std::min(kTileRows, rows - r);
            step == 32 ? register_tile_of<8>(here, f, block) : register_tile_of<1>(here, f, block);
          }
        }
      }
      for (int64_t r = 0; r < (count == kGroupedColumns && w.groups > 0 ? 0 : rows); ++r) {
        store_row(total + r * kGroupedColumns, bias, true, g.input_scale[(i + r) * g.input_stride], count,
                  g.out + (i + r) * g.ldo + first);
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
