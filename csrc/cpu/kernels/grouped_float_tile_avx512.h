// Many float rows times packed weights on AVX-512: a block of codes becomes floats in the first-level cache, once for all
// rows, and rows are laid out for tiles of six, so that what a tile reads lies at constant distances and in order. Included
// by linear_grouped_avx512.cpp.
#pragma once
#include "cpu/kernels/grouped_tile_avx512.h"
#include "cpu/kernels/linear_grouped_float.h"

namespace torchqat::cpu {
namespace {

constexpr int64_t kFloatColumns = 32;                                            // that a tile takes
constexpr int64_t kFloatTileBlock = kFloatBlock * kGroupedColumns / kFloatColumns;  // k decoded at a time

TORCHQAT_INLINE void multiply_now(__m512& sum, __m512 x, __m512 q) {
  asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(q));
}

struct FloatTile {
  const float* x;   // strip at the block's first k
  int64_t to_next;  // from there to the next tile's
  const FloatSegment *segment, *end;
  const float* b;                     // [k][32]
  const float *scale, *zero_point;    // [groups][64], zero_point absent: 0
  const float* input_sums;            // [rows][groups]
  int64_t groups;
  float *sums, *totals;               // [rows][64]
};

// rows x 32 columns over the segments of a block, all in registers: totals written group by group would hold up the loads of
// the next group.
template <int rows, int step>
__attribute__((noinline)) void float_strip(const FloatTile& f) {
  using numerics::Vec;
  constexpr int vectors = kFloatColumns / Vec::size;
  const float *b = f.b, *x = f.x;
  const auto each = [](const auto& of) __attribute__((always_inline)) {
    unrolled<rows>([&](auto r) __attribute__((always_inline)) {
      unrolled<vectors>([&](auto c) __attribute__((always_inline)) { of(r, c, r * kGroupedColumns + c * Vec::size); });
    });
  };
  __m512 acc[rows][vectors], total[rows][vectors];
  each([&](auto r, auto c, int64_t at) __attribute__((always_inline)) { total[r][c] = _mm512_loadu_ps(f.totals + at); });
  for (const FloatSegment *s = f.segment, *end = f.end; s != end; ++s) {
    if (s->first) {
      each([&](auto r, auto c, int64_t) __attribute__((always_inline)) {
        asm volatile("vpxord %0, %0, %0" : "=v"(acc[r][c]));
      });
    } else {
      each([&](auto r, auto c, int64_t at) __attribute__((always_inline)) { acc[r][c] = _mm512_loadu_ps(f.sums + at); });
    }
    for (int64_t left = s->count; left > 0; left -= step, b += step * kFloatColumns, x += step * kTileRows) {
      for (int64_t i = 0; i < step * kTileRows; i += 16) Lanes::prefetch(reinterpret_cast<const uint8_t*>(x + f.to_next + i));
      unrolled<step>([&](auto j) __attribute__((always_inline)) {
        __m512 q[vectors];
        unrolled<vectors>([&](auto c) __attribute__((always_inline)) {
          q[c] = _mm512_castsi512_ps(load_now<4 * j * kFloatColumns + 64 * c>(b));
        });
        unrolled<rows>([&](auto r) __attribute__((always_inline)) {
          const __m512 value = _mm512_castsi512_ps(broadcast_now<4 * (step * r + j)>(x));
          unrolled<vectors>([&](auto c) __attribute__((always_inline)) { multiply_now(acc[r][c], value, q[c]); });
        });
      });
    }
    if (!s->last) {
      each([&](auto r, auto c, int64_t at) __attribute__((always_inline)) { _mm512_storeu_ps(f.sums + at, acc[r][c]); });
      continue;
    }
    if (f.zero_point != nullptr) {
      const float *zero_point = f.zero_point + s->group * kGroupedColumns, *input_sum = f.input_sums + s->group;
      each([&](auto r, auto c, int64_t) __attribute__((always_inline)) {
        const Vec z = Vec::load(zero_point + c * Vec::size);
        acc[r][c] = numerics::without_zero_point(Vec(acc[r][c]), z, Vec(input_sum[r * f.groups])).v;
      });
    }
    const float* scale = f.scale + s->group * kGroupedColumns;
    each([&](auto r, auto c, int64_t) __attribute__((always_inline)) {
      total[r][c] = numerics::add_group(Vec(total[r][c]), Vec(acc[r][c]), Vec::load(scale + c * Vec::size)).v;
    });
  }
  each([&](auto r, auto c, int64_t at) __attribute__((always_inline)) { _mm512_storeu_ps(f.totals + at, total[r][c]); });
}

template <int step>
inline void float_strip_of(int64_t rows, const FloatTile& f) {
  switch (rows) {
    case 1: return float_strip<1, step>(f);
    case 2: return float_strip<2, step>(f);
    case 3: return float_strip<3, step>(f);
    case 4: return float_strip<4, step>(f);
    case 5: return float_strip<5, step>(f);
    default: return float_strip<6, step>(f);
  }
}

// `rows` rows to [tile][k / step][row of the tile][step].
template <int step>
inline void floats_to_strips(const GroupedFloat& g, int64_t first, int64_t rows, float* out) {
  const int64_t k = g.w.k_padded();
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = g.input + (first + r) * g.lda;
    float* to = out + r / kTileRows * kTileRows * k + r % kTileRows * step;
    for (int64_t i = 0; i < k; i += step, to += step * kTileRows) std::memcpy(to, x + i, step * sizeof(float));
  }
}

// Columns [column, column + 32) of a panel, k of them from `k` on, to [k][32].
template <int slot>
inline void decode_columns(const GroupedLayout& w, const uint8_t* panel, int64_t column, int64_t k, int64_t count, float* out) {
  constexpr int line_k = 32 / slot;
  const Lanes::Decoder<slot> decode(w.offset);
  // The next block's: by halves of lines the hardware does not see them coming.
  constexpr int64_t ahead = kFloatTileBlock / line_k * kGroupedLine;
  const uint8_t* line = panel + k / line_k * kGroupedLine + 4 * column;
  for (int64_t end = k + count; k < end; k += line_k, line += kGroupedLine, out += line_k * kFloatColumns) {
#pragma GCC unroll 2
    for (int c = 0; c < kFloatColumns; c += Lanes::columns) {
      Lanes::prefetch_far(line + 4 * c + ahead);
      const auto bytes = Lanes::load_bytes(line + 4 * c);
#pragma GCC unroll 16
      for (int j = 0; j < line_k; ++j) decode(bytes, 8 * (j % 4) + slot * (j / 4)).store(out + j * kFloatColumns + c);
    }
  }
}

template <int slot>
inline void float_gemm(const GroupedFloat& g, const GroupedRange& range) {
  constexpr int step = std::min(8, 32 / slot);
  const GroupedLayout& w = g.w;
  auto* scale = reinterpret_cast<float*>(range.scratch);
  float* zero_point = scale + w.groups * kGroupedColumns;
  float* input_sums = zero_point + w.groups * kGroupedColumns;
  float* block = input_sums + (w.groups * kGroupedRowsAtOnce + 15) / 16 * 16;
  float* sums = block + kFloatBlock * kGroupedColumns;
  float* totals = sums + kGroupedRowsAtOnce * kGroupedColumns;
  float* strips = totals + kGroupedRowsAtOnce * kGroupedColumns;
  const bool has_zero = g.zero_point.data != nullptr;
  // Parts of equal length: decoding a block is shared by the rows of a part.
  const int64_t all = range.row_end - range.row_begin, most = float_strip_rows(w), parts = (all + most - 1) / most;
  const int64_t part = ((all + parts - 1) / parts + kTileRows - 1) / kTileRows * kTileRows;
  for (int64_t begin = range.row_begin; begin < range.row_end; begin += part) {
    const int64_t rows = std::min(part, range.row_end - begin);
    floats_to_strips<step>(g, begin, rows, strips);
    if (has_zero) sum_inputs(g, begin, rows, input_sums);
    for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
      const int64_t first = p * kGroupedColumns, count = std::min(kGroupedColumns, w.n - first);
      gather_scales(w, g.scale, p, 0, w.groups, scale);
      if (has_zero) gather_scales(w, g.zero_point, p, 0, w.groups, zero_point);
      std::memset(totals, 0, static_cast<size_t>(rows * kGroupedColumns) * sizeof(float));
      for (int64_t column = 0; column < kGroupedColumns; column += kFloatColumns) {
        for (int64_t k = 0; k < w.k_padded();) {
          FloatSegment segments[kFloatTileBlock];
          const FloatBlock found = next_segments<slot>(w, k, kFloatTileBlock, segments);
          decode_columns<slot>(w, g.weight + p * w.panel_bytes, column, k, found.k, block);
          for (int64_t r = 0; r < rows; r += kTileRows) {
            FloatTile f{};
            f.x = strips + r * w.k_padded() + k * kTileRows;
            f.to_next = w.k_padded() * kTileRows;
            f.segment = segments;
            f.end = segments + found.segments;
            f.b = block;
            f.scale = scale + column;
            f.zero_point = has_zero ? zero_point + column : nullptr;
            f.input_sums = input_sums + r * w.groups;
            f.groups = w.groups;
            f.sums = sums + r * kGroupedColumns + column;
            f.totals = totals + r * kGroupedColumns + column;
            float_strip_of<step>(std::min(kTileRows, rows - r), f);
          }
          k += found.k;
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        store_row(totals + r * kGroupedColumns, g.bias != nullptr ? g.bias + first : nullptr, false, 1.0f, count,
                  g.out + (begin + r) * g.ldo + first);
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
