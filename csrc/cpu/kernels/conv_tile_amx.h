// The inner kernel of a convolution on AMX: 32 pixels x 32 channels in four tiles of sums, for products of codes or of bfloat16.
#pragma once
#include "cpu/kernels/amx_products.h"
#include "cpu/kernels/conv_plan.h"

namespace torchqat::cpu::conv {
namespace {

// Every tile is whole: panels are padded with zero weights, sums have room for 16 rows, rows may be read past the end.
void gemm_begin() { TileConfig::whole().load(); }
void gemm_end() { _tile_release(); }

// Tiles 0-3: sums (row half * 2 + column half), from init or from zero; 4, 5: rows; 6, 7: weights.
template <typename Op, bool TwoRows, bool TwoColumns, typename Sum>
inline void tile(const uint8_t* a, int64_t row_stride, const Run* runs, int run_count, const uint8_t* panel, const Sum* init, Sum* sums) {
  if constexpr (std::is_same_v<Op, BF16>) {
    _tile_zero(0);
    if constexpr (TwoColumns) _tile_zero(1);
    if constexpr (TwoRows) _tile_zero(2);
    if constexpr (TwoRows && TwoColumns) _tile_zero(3);
  } else {
    _tile_loadd(0, init, 0);
    if constexpr (TwoColumns) _tile_loadd(1, init + 16, 0);
    if constexpr (TwoRows) _tile_loadd(2, init, 0);
    if constexpr (TwoRows && TwoColumns) _tile_loadd(3, init + 16, 0);
  }
  for (int j = 0; j < run_count; ++j) {
    const uint8_t* row = a + runs[j].a;
    const uint8_t* w = panel + runs[j].w;
    for (int64_t g = runs[j].groups; g > 0; g -= 16, row += 64, w += 64 * kPanel) {
      _tile_loadd(4, row, row_stride);
      _tile_loadd(6, w, 4 * kPanel);
      add_products<Op, 0>();
      if constexpr (TwoColumns) {
        _tile_loadd(7, w + 64, 4 * kPanel);
        add_products<Op, 1>();
      }
      if constexpr (TwoRows) {
        _tile_loadd(5, row + 16 * row_stride, row_stride);
        add_products<Op, 2>();
        if constexpr (TwoColumns) add_products<Op, 3>();
      }
    }
  }
  _tile_stored(0, sums, 4 * kPanel);
  if constexpr (TwoColumns) _tile_stored(1, sums + 16, 4 * kPanel);
  if constexpr (TwoRows) _tile_stored(2, sums + 16 * kPanel, 4 * kPanel);
  if constexpr (TwoRows && TwoColumns) _tile_stored(3, sums + 16 * kPanel + 16, 4 * kPanel);
}

// sums [rows rounded up to 16][64] of `columns` columns of a panel. init: [64], read for products of codes only.
template <typename Op, typename Sum>
void gemm_tiles(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const uint8_t* panel, int64_t columns,
                const Sum* init, Sum* sums) {
  for (int64_t c = 0; c < columns; c += 32) {
    const uint8_t* w = panel + 4 * c;
    const bool two_columns = columns - c > 16;
    for (int64_t r = 0; r < rows; r += 32) {
      const uint8_t* from = a + r * row_stride;
      Sum* to = sums + r * kPanel + c;
      if (rows - r > 16) {
        two_columns ? tile<Op, true, true>(from, row_stride, runs, run_count, w, init + c, to)
                    : tile<Op, true, false>(from, row_stride, runs, run_count, w, init + c, to);
      } else {
        two_columns ? tile<Op, false, true>(from, row_stride, runs, run_count, w, init + c, to)
                    : tile<Op, false, false>(from, row_stride, runs, run_count, w, init + c, to);
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv
