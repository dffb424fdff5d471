// Linear layers on weights in groups: the AMX path. One block of 16 rows x 16 columns at a time keeps its float totals
// in registers; the integer sums of several groups are computed ahead, so that the matrix unit works while earlier sums
// are converted and added. Where a tile has room for four more k, the zero point is multiplied there, by minus the sum
// of the group's codes in four bytes: it then costs nothing.
#include "cpu/kernels/grouped_tile_amx.h"

namespace torchqat::cpu {
namespace {

// Registers 0-3: sums; 4, 5: A [16 rows][chunk]; 6, 7: B [chunk / 4][16 columns][4].
void configure(int64_t chunk, int64_t rows) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.row_bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? chunk : 64);
    config.rows[t] = static_cast<uint8_t>(t < 6 ? rows : chunk / 4);
  }
  config.load();
}

// How a group's k lie in tiles.
struct TileLayout {
  bool folds;        // four k more, for the zero point
  int64_t chunk;     // bytes of a tile row in use
  int64_t chunks;    // tiles per group
  int64_t a_step, b_step;  // bytes per group
  int64_t rows_at_once;    // so that the rows' tiles stay in the second-level cache

  explicit TileLayout(const GroupedInt8& g) {
    const GroupedLayout& w = g.w;
    // Four signed bytes hold sums up to 4 * 127.
    folds = w.chunk + 4 <= 64 && w.group_padded == w.chunk && g.weight_most * w.group_padded <= 508;
    chunk = w.chunk + (folds ? 4 : 0);
    chunks = w.group_padded / w.chunk;
    a_step = chunks * 1024;
    b_step = chunks * chunk * kGroupedColumns;
    const int64_t fit = (int64_t{1} << 20) / std::max<int64_t>(1, w.groups * chunks * 64) / 16 * 16;
    rows_at_once = std::clamp<int64_t>(fit, 16, kGroupedRowsAtOnce);
  }
};

// Codes of `rows` rows to tiles [row / 16][group][chunk][16][64].
void rows_to_tiles(const GroupedInt8& g, int64_t first, int64_t rows, uint8_t* out) {
  const GroupedLayout& w = g.w;
  const auto mask = static_cast<__mmask64>(w.chunk == 64 ? ~0ull : (1ull << w.chunk) - 1);
  for (int64_t tile = 0; tile < rows; tile += 16) {
    const int64_t here = std::min<int64_t>(16, rows - tile);
    __m512i zero_point[16];
    for (int64_t r = 0; r < here; ++r) {
      zero_point[r] = _mm512_set1_epi8(static_cast<char>(g.zero_point[(first + tile + r) * g.input_stride]));
    }
    const uint8_t* x = g.codes + (first + tile) * g.lda;
    for (int64_t k = 0; k < w.k_padded(); k += w.chunk, x += w.chunk, out += 1024) {
      for (int64_t r = 0; r < here; ++r) {
        _mm512_storeu_si512(out + 64 * r, _mm512_mask_loadu_epi8(zero_point[r], mask, x + r * g.lda));
      }
    }
  }
}

// Minus the sum of each column as four bytes that add up to it.
TORCHQAT_INLINE __m512i in_four_bytes(__m512i sum) {
  const __m512i v = _mm512_sub_epi32(_mm512_setzero_si512(), sum);
  const __m512i spread = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  const __m512i quarter = _mm512_shuffle_epi8(_mm512_srai_epi32(v, 2), spread);
  const __m512i rest = _mm512_set4_epi32(0x00010101, 0x00000101, 0x00000001, 0);
  return _mm512_add_epi8(quarter, _mm512_permutexvar_epi32(_mm512_and_si512(v, _mm512_set1_epi32(3)), rest));
}

template <int slot>
void unpack_tiles(const GroupedInt8& g, const TileLayout& tiles, int64_t panel, int64_t group, bool prefetch,
                  UnpackedBlock& block) {
  const GroupedLayout& w = g.w;
  constexpr int quads = 8 / slot;
  constexpr int64_t ahead = 4096;
  const int64_t lines = w.group_bytes / kGroupedLine;
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(w.offset)), one = _mm512_set1_epi8(1);
  const uint8_t* line = g.weight + panel * w.panel_bytes + group * w.group_bytes;
  uint8_t* out = block.codes;
  for (int64_t i = 0; i < block.groups; ++i) {
    __m512i sum[4];
    for (auto& s : sum) s = _mm512_setzero_si512();
    for (int64_t l = 0; l < lines; ++l, line += kGroupedLine, out += quads * kGroupedLine) {
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        if (prefetch) Lanes::prefetch(line + 64 * c + ahead);
        const __m512i bytes = Lanes::load_bytes(line + 64 * c);
#pragma GCC unroll 4
        for (int j = 0; j < quads; ++j) {
          const __m512i s = Lanes::subtract_bytes(Lanes::field<slot>(bytes, j), offset);
          _mm512_store_si512(out + j * kGroupedLine + 64 * c, s);
          Lanes::dot<true>(sum[c], one, s);
        }
      }
    }
    for (int c = 0; c < 4; ++c) {
      if (tiles.folds) _mm512_store_si512(out + 64 * c, in_four_bytes(sum[c]));
      else Lanes::store(block.sums + i * kGroupedColumns + 16 * c, Lanes::split_sum(sum[c]));
    }
    if (tiles.folds) out += kGroupedLine;
  }
  gather_scales(w, g.scale, panel, group, group + block.groups, block.scale);
}

// The sums of a group are computed `ahead` groups before they are converted and added.
template <int rows, bool folds>
__attribute__((noinline)) void tile_block(const TileLayout& tiles, const uint8_t* a, const UnpackedBlock& block,
                                          const int32_t* zero_point, float* total) {
  constexpr int64_t ahead = 2;
  alignas(64) int32_t acc[4][256];
  for (int64_t c = 0; c < kGroupedColumns; c += 16) {
    numerics::Vec t[rows];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) t[r] = numerics::Vec::load(total + r * kGroupedColumns + c);
    const uint8_t* b = block.codes + 4 * c;
    const int32_t* sums = block.sums + c;
    const float* scale = block.scale + c;
    for (int64_t group = -ahead; group < block.groups; group += 4) {
#define TORCHQAT_STEP(j)                                                                                      \
  if (const int64_t next = group + j + ahead; next < block.groups) {                                          \
    zero_sums<j>();                                                                                           \
    for (int64_t k = 0; k < (folds ? 1 : tiles.chunks); ++k) {                                                \
      add_product<j>(a + next * tiles.a_step + k * 1024, b + next * tiles.b_step + k * tiles.chunk * 64);         \
    }                                                                                                         \
    store_sums<j>(acc[j]);                                                                                    \
  }                                                                                                           \
  if (group + j >= 0 && group + j < block.groups) {                                                           \
    add_block<rows, folds>(acc[(j + 4 - ahead) % 4], sums + (group + j) * kGroupedColumns,                    \
                           scale + (group + j) * kGroupedColumns, zero_point, t);                             \
  }
      TORCHQAT_STEP(0)
      TORCHQAT_STEP(1)
      TORCHQAT_STEP(2)
      TORCHQAT_STEP(3)
#undef TORCHQAT_STEP
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) t[r].store(total + r * kGroupedColumns + c);
  }
}

// Of all tiles of rows; usual: eight folding groups of 32.
template <bool folds, bool usual>
void all_rows(const TileLayout& tiles, const GroupedLayout& w, const uint8_t* a, const uint8_t* after, int64_t rows,
              const UnpackedBlock& block, const int32_t* zero_point, float* total, bool first, Finish finish, Soon soon) {
  const int64_t tile_bytes = w.groups * tiles.a_step;
  for (int64_t r = 0; r < rows; r += 16, a += tile_bytes, total += 16 * kGroupedColumns, zero_point += 16) {
    const int64_t left = rows - r;
    const auto run = [&]<int count>(std::integral_constant<int, count>) {
      if constexpr (usual) {
        tile_flow<count>({a, left > 16 ? a + tile_bytes : after, block.codes, block.scale, total, nullptr, first,
                          left < 16 ? Finish{} : finish, soon});
      } else {
        for (int64_t l = 0; l < soon.weight_lines; ++l) Lanes::prefetch_far(soon.weight + 64 * l);
        for (int64_t l = 0; l < soon.scale_lines; ++l) Lanes::prefetch_far(soon.scale + 64 * l);
        tile_block<count, folds>(tiles, a, block, zero_point, total);
      }
    };
    if (left < 16) configure(tiles.chunk, left);  // rows beyond the last are not read; their sums are left as they are
    if (left > 8) run(std::integral_constant<int, 16>{});
    else if (left > 4) run(std::integral_constant<int, 8>{});
    else run(std::integral_constant<int, 4>{});
    if (left < 16) configure(tiles.chunk, 16);
    soon.weight += 64 * soon.weight_lines;
    soon.scale += 64 * soon.scale_lines;
    if (finish.out != nullptr) {
      finish.out += 16 * finish.ldo;
      finish.input_scale += 16 * finish.input_stride;
    }
  }
}

// What follows `groups` groups from `group` on, a share for each of row_tiles.
Soon next_block(const GroupedInt8& g, int64_t panel, int64_t group, int64_t groups, int64_t row_tiles) {
  const GroupedLayout& w = g.w;
  const auto share = [&](int64_t bytes) { return (bytes / 64 + row_tiles - 1) / row_tiles; };
  Soon soon;
  soon.weight = g.weight + panel * w.panel_bytes + (group + groups) * w.group_bytes;
  soon.weight_lines = share(groups * w.group_bytes);
  if (is_direct(w, g.scale, panel) && g.scale.group_stride == kGroupedColumns) {
    soon.scale = scale_address(g.scale, panel * g.scale.panel_stride + (group + groups) * kGroupedColumns);
    soon.scale_lines = share(groups * kGroupedColumns * (g.scale.type == ScaleType::float32 ? 4 : 2));
  }
  return soon;
}

template <int slot>
void tile_gemm(const GroupedInt8& g, const GroupedRange& range) {
  const GroupedLayout& w = g.w;
  const TileLayout tiles(g);
  const int64_t at_once = grouped_block(w);
  UnpackedBlock block{};
  block.codes = range.scratch;
  block.sums = reinterpret_cast<int32_t*>(block.codes + at_once * tiles.b_step);
  block.scale = reinterpret_cast<float*>(block.sums + at_once * kGroupedColumns);
  float* total = block.scale + at_once * kGroupedColumns;
  const int64_t most = std::min(kGroupedRowsAtOnce, range.row_end - range.row_begin) + 16;
  auto* zero_point = reinterpret_cast<int32_t*>(total + most * kGroupedColumns);
  auto* a = reinterpret_cast<uint8_t*>(zero_point + most);
  configure(tiles.chunk, 16);
  for (int64_t i = range.row_begin; i < range.row_end; i += tiles.rows_at_once) {
    const int64_t rows = std::min(tiles.rows_at_once, range.row_end - i);
    for (int64_t r = 0; r < rows + 16; ++r) {
      zero_point[r] = r < rows ? split_zero_point(g.zero_point[(i + r) * g.input_stride]) : 0;
    }
    rows_to_tiles(g, i, rows, a);
    for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
      const int64_t first = p * kGroupedColumns, count = std::min(kGroupedColumns, w.n - first);
      const float* bias = g.bias != nullptr ? g.bias + first : nullptr;
      const auto is_usual = [&](int64_t groups) { return tiles.folds && tiles.chunk == 36 && groups == 8; };
      if (!is_usual(std::min(at_once, w.groups))) {
        std::memset(total, 0, static_cast<size_t>((rows + 15) / 16 * 16 * kGroupedColumns) * sizeof(float));
      }
      Finish finish;
      for (int64_t group = 0; group < w.groups; group += at_once) {
        block.groups = std::min(at_once, w.groups - group);
        const bool usual = is_usual(block.groups);
        // Elsewhere one or two tiles are too short a time to ask for the next block in.
        const bool in_unpack = !usual && rows <= 32;
        unpack_tiles<slot>(g, tiles, p, group, in_unpack, block);
        const auto kernel = usual ? &all_rows<true, true> : tiles.folds ? &all_rows<true, false> : &all_rows<false, false>;
        // A single tile of rows stays in the cache by itself.
        const int64_t after = group + at_once < w.groups ? group + at_once : 0;
        if (usual && after == 0 && count == kGroupedColumns) {
          finish = {g.out + i * g.ldo + first, g.ldo, g.input_scale + i * g.input_stride, bias, g.input_stride};
        }
        kernel(tiles, w, a + group * tiles.a_step, rows > 16 ? a + after * tiles.a_step : nullptr, rows, block, zero_point,
               total, group == 0, finish,
               in_unpack ? Soon{} : next_block(g, p, group, block.groups, (rows + 15) / 16));
      }
      for (int64_t r = finish.out != nullptr ? rows / 16 * 16 : 0; r < rows; ++r) {
        store_row(total + r * kGroupedColumns, bias, true, g.input_scale[(i + r) * g.input_stride], count,
                  g.out + (i + r) * g.ldo + first);
      }
    }
  }
  _tile_release();
}

}  // namespace

void grouped_int8_amx(const GroupedInt8& g, const GroupedRange& range) {
  const bool one = range.row_end - range.row_begin <= 1;
  switch (g.w.slot) {
    case 2: one ? gemv_rows<2>(g, range) : tile_gemm<2>(g, range); break;
    case 4: one ? gemv_rows<4>(g, range) : tile_gemm<4>(g, range); break;
    default: one ? gemv_rows<8>(g, range) : tile_gemm<8>(g, range); break;
  }
  set_nan_rows(g, range);
}

}  // namespace torchqat::cpu
