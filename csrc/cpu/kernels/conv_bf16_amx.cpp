// bfloat16 gradients of a convolution on AMX-BF16: 32 rows x 32 columns in four tiles of sums.
#include "cpu/kernels/amx_config.h"
#include "cpu/kernels/conv_bf16.h"

namespace torchqat::cpu::conv {
namespace {

// Every tile is whole: panels are padded with zero weights, sums have room for 16 rows, values may be read past the end.
void gemm_begin() { TileConfig::whole().load(); }
void gemm_end() { _tile_release(); }

// Tiles 0-3: sums (row half * 2 + column half); 4, 5: values; 6, 7: weights.
template <bool TwoRows, bool TwoColumns>
inline void tile(const uint8_t* a, int64_t row_stride, const Run* runs, int run_count, const uint8_t* panel, float* sums) {
  _tile_zero(0);
  if constexpr (TwoColumns) _tile_zero(1);
  if constexpr (TwoRows) _tile_zero(2);
  if constexpr (TwoRows && TwoColumns) _tile_zero(3);
  for (int j = 0; j < run_count; ++j) {
    const uint8_t* values = a + runs[j].a;
    const uint8_t* w = panel + runs[j].w;
    for (int64_t g = runs[j].groups; g > 0; g -= 16, values += 64, w += 64 * kPanel) {
      _tile_loadd(4, values, row_stride);
      _tile_loadd(6, w, 4 * kPanel);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (TwoColumns) {
        _tile_loadd(7, w + 64, 4 * kPanel);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (TwoRows) {
        _tile_loadd(5, values + 16 * row_stride, row_stride);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (TwoColumns) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums, 4 * kPanel);
  if constexpr (TwoColumns) _tile_stored(1, sums + 16, 4 * kPanel);
  if constexpr (TwoRows) _tile_stored(2, sums + 16 * kPanel, 4 * kPanel);
  if constexpr (TwoRows && TwoColumns) _tile_stored(3, sums + 16 * kPanel + 16, 4 * kPanel);
}

void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const uint8_t* panel, int64_t columns,
          float* sums) {
  for (int64_t c = 0; c < columns; c += 32) {
    const uint8_t* w = panel + 4 * c;
    const bool two_columns = columns - c > 16;
    for (int64_t r = 0; r < rows; r += 32) {
      const uint8_t* values = a + r * row_stride;
      float* to = sums + r * kPanel + c;
      if (rows - r > 16) {
        two_columns ? tile<true, true>(values, row_stride, runs, run_count, w, to)
                    : tile<true, false>(values, row_stride, runs, run_count, w, to);
      } else {
        two_columns ? tile<false, true>(values, row_stride, runs, run_count, w, to)
                    : tile<false, false>(values, row_stride, runs, run_count, w, to);
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_bf16_generic.h"

namespace torchqat::cpu::conv {
Bf16Kernels bf16_kernels_amx() { return bf16_kernels; }
}  // namespace torchqat::cpu::conv
