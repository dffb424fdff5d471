// Many rows of u8 codes times packed weights. For each panel a block of groups is unpacked to signed bytes in the
// first-level cache, with the sums of its columns and its scales as floats; then every tile of rows goes over it.
#pragma once
#include <limits>

#include "cpu/kernels/grouped_scales_generic.h"
#include "cpu/kernels/linear_grouped.h"

namespace torchqat::cpu {
namespace {

struct UnpackedBlock {
  uint8_t* codes;   // [group][group_padded / 4][64][4], signed bytes
  int32_t* sums;    // [group][64], split_sum of the group's codes
  float* scale;     // [group][64]
  int64_t groups;
};

template <int slot>
inline void unpack_block(const GroupedInt8& g, int64_t panel, int64_t group, UnpackedBlock& block) {
  const GroupedLayout& w = g.w;
  constexpr int quads = 8 / slot, step = 4 * Lanes::columns;
  constexpr int64_t ahead = 8192;
  const int64_t lines = w.group_bytes / kGroupedLine;
  const auto offset = Lanes::broadcast_bytes(static_cast<uint8_t>(w.offset)), one = Lanes::broadcast_bytes(1);
  const uint8_t* packed = g.weight + panel * w.panel_bytes + group * w.group_bytes;
  for (int64_t i = 0; i < block.groups; ++i, packed += w.group_bytes) {
    uint8_t* codes = block.codes + i * w.group_padded * kGroupedColumns;
    for (int64_t c = 0; c < kGroupedColumns; c += Lanes::columns) {
      auto sum = Lanes::zero();
      const uint8_t* line = packed + 4 * c;
      uint8_t* out = codes + 4 * c;
      for (int64_t l = 0; l < lines; ++l, line += kGroupedLine) {
        Lanes::prefetch(line + ahead);
        const auto bytes = Lanes::load_bytes(line);
#pragma GCC unroll 4
        for (int j = 0; j < quads; ++j, out += step * (kGroupedColumns / Lanes::columns)) {
          const auto s = Lanes::subtract_bytes(Lanes::template field<slot>(bytes, j), offset);
          Lanes::store_bytes(out, s);
          Lanes::template dot<true>(sum, one, s);
        }
      }
      Lanes::store(block.sums + i * kGroupedColumns + c, Lanes::split_sum(sum));
    }
  }
  gather_scales(w, g.scale, panel, group, group + block.groups, block.scale);
}

// Totals are read and written once per group: without this gcc keeps them in registers and spills the sums instead.
TORCHQAT_INLINE void keep_in_memory() { asm volatile("" ::: "memory"); }

// z in the form that subtract_product takes.
TORCHQAT_INLINE int32_t split_zero_point(int32_t z) {
  return static_cast<int32_t>((static_cast<uint32_t>(-z * 128) << 16) | (static_cast<uint32_t>(-z) & 0xffffu));
}

// rows x 64 columns; zero_point [rows] split; total [rows][64].
template <int rows, bool narrow>
__attribute__((noinline)) void gemm_tile(const GroupedLayout& w, const uint8_t* a, int64_t lda, const UnpackedBlock& block,
                      const int32_t* zero_point, float* total) {
  using numerics::Vec;
  constexpr int vectors = Lanes::tile_vectors, step = 4 * Lanes::columns;
  for (int64_t c0 = 0; c0 < kGroupedColumns; c0 += vectors * Lanes::columns) {
    const uint8_t* b = block.codes + 4 * c0;
    const uint8_t* x = a;
    for (int64_t group = 0; group < block.groups; ++group) {
      const int32_t* sums = block.sums + group * kGroupedColumns + c0;
      typename Lanes::Int acc[rows][vectors];
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) {
          acc[r][c] = Lanes::zero();
          Lanes::subtract_product(acc[r][c], Lanes::load(sums + c * Lanes::columns), Lanes::broadcast(zero_point[r]));
        }
      }
      for (int64_t q = 0; q < w.group_padded; q += 4, b += kGroupedLine, x += 4) {
        typename Lanes::Bytes s[vectors];
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) s[c] = Lanes::load_bytes(b + c * step);
#pragma GCC unroll 6
        for (int r = 0; r < rows; ++r) {
          int32_t word;
          std::memcpy(&word, x + r * lda, 4);
          const auto u = Lanes::broadcast(word);
#pragma GCC unroll 4
          for (int c = 0; c < vectors; ++c) Lanes::template dot<narrow>(acc[r][c], u, s[c]);
        }
      }
      keep_in_memory();
      const float* scale = block.scale + group * kGroupedColumns + c0;
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
        float* t = total + r * kGroupedColumns + c0;
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) {
          const int at = c * Lanes::columns;
          numerics::add_group(Vec::load(t + at), Lanes::to_float(acc[r][c]), Vec::load(scale + at)).store(t + at);
        }
      }
    }
  }
}

// The tile of this file's lanes; AMX has its own.
struct LaneTile {
  template <bool narrow>
  static void rows(const GroupedLayout& w, const uint8_t* a, int64_t lda, int64_t rows, const UnpackedBlock& block,
                   const int32_t* zero_point, float* total) {
    constexpr int most = Lanes::tile_rows;
    // Rows split evenly among the tiles.
    const int64_t tiles = (rows + most - 1) / most;
    for (int64_t tile = 0, r = 0, here = 0; tile < tiles; ++tile, r += here) {
      here = (rows - r) / (tiles - tile);
      const uint8_t* x = a + r * lda;
      float* t = total + r * kGroupedColumns;
      switch (here) {
        case 1: gemm_tile<1, narrow>(w, x, lda, block, zero_point + r, t); break;
        case 2: gemm_tile<std::min(2, most), narrow>(w, x, lda, block, zero_point + r, t); break;
        case 3: gemm_tile<std::min(3, most), narrow>(w, x, lda, block, zero_point + r, t); break;
        case 4: gemm_tile<std::min(4, most), narrow>(w, x, lda, block, zero_point + r, t); break;
        case 5: gemm_tile<std::min(5, most), narrow>(w, x, lda, block, zero_point + r, t); break;
        default: gemm_tile<most, narrow>(w, x, lda, block, zero_point + r, t); break;
      }
    }
  }
};

template <typename Tile, int slot>
inline void gemm_rows(const GroupedInt8& g, const GroupedRange& range) {
  const GroupedLayout& w = g.w;
  const int64_t at_once = grouped_block(w);
  UnpackedBlock block{};
  block.codes = range.scratch;
  block.sums = reinterpret_cast<int32_t*>(block.codes + at_once * w.group_padded * kGroupedColumns);
  block.scale = reinterpret_cast<float*>(block.sums + at_once * kGroupedColumns);
  float* total = block.scale + at_once * kGroupedColumns;
  const int64_t most = std::min(kGroupedRowsAtOnce, range.row_end - range.row_begin) + 16;
  auto* zero_point = reinterpret_cast<int32_t*>(total + most * kGroupedColumns);
  for (int64_t i = range.row_begin; i < range.row_end; i += kGroupedRowsAtOnce) {
    const int64_t rows = std::min(kGroupedRowsAtOnce, range.row_end - i);
    for (int64_t r = 0; r < rows + 16; ++r) {
      zero_point[r] = r < rows ? split_zero_point(g.zero_point[(i + r) * g.input_stride]) : 0;
    }
    for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
      std::memset(total, 0, static_cast<size_t>((rows + 16) * kGroupedColumns) * sizeof(float));
      for (int64_t group = 0; group < w.groups; group += at_once) {
        block.groups = std::min(at_once, w.groups - group);
        unpack_block<slot>(g, p, group, block);
        Tile::template rows<slot != 8>(w, g.codes + i * g.lda + group * w.group_padded, g.lda, rows, block, zero_point,
                                       total);
      }
      const int64_t first = p * kGroupedColumns, count = std::min(kGroupedColumns, w.n - first);
      for (int64_t r = 0; r < rows; ++r) {
        store_row(total + r * kGroupedColumns, g.bias != nullptr ? g.bias + first : nullptr, true,
                  g.input_scale[(i + r) * g.input_stride], count, g.out + (i + r) * g.ldo + first);
      }
    }
  }
}

inline void set_nan_rows(const GroupedInt8& g, const GroupedRange& range) {
  if (g.nan_rows == nullptr) return;
  const int64_t first = range.panel_begin * kGroupedColumns, last = std::min(g.w.n, range.panel_end * kGroupedColumns);
  for (int64_t i = range.row_begin; i < range.row_end; ++i) {
    if (g.nan_rows[i] == 0) continue;
    for (int64_t j = first; j < last; ++j) g.out[i * g.ldo + j] = std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace
}  // namespace torchqat::cpu
