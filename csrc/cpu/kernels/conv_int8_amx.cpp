// Convolution on AMX-INT8: 32 pixels x 32 channels in four tiles of sums.
#include "cpu/kernels/amx_config.h"
#include "cpu/kernels/conv_int8.h"

namespace torchqat::cpu::conv {
namespace {

// Every tile is whole: panels are padded with zero weights, sums have room for 16 rows, codes may be read past the end.
void gemm_begin() { TileConfig::whole().load(); }
void gemm_end() { _tile_release(); }

// Tiles 0-3: sums (row half * 2 + column half); 4, 5: codes; 6, 7: weights.
template <bool TwoRows, bool TwoColumns>
inline void tile(const uint8_t* a, int64_t row_stride, const Run* runs, int run_count, const int8_t* panel, const int32_t* init,
                 int32_t* sums) {
  _tile_loadd(0, init, 0);
  if constexpr (TwoColumns) _tile_loadd(1, init + 16, 0);
  if constexpr (TwoRows) _tile_loadd(2, init, 0);
  if constexpr (TwoRows && TwoColumns) _tile_loadd(3, init + 16, 0);
  for (int j = 0; j < run_count; ++j) {
    const uint8_t* codes = a + runs[j].a;
    const int8_t* w = panel + runs[j].w;
    for (int64_t g = runs[j].groups; g > 0; g -= 16, codes += 64, w += 64 * kPanel) {
      _tile_loadd(4, codes, row_stride);
      _tile_loadd(6, w, 4 * kPanel);
      _tile_dpbusd(0, 4, 6);
      if constexpr (TwoColumns) {
        _tile_loadd(7, w + 64, 4 * kPanel);
        _tile_dpbusd(1, 4, 7);
      }
      if constexpr (TwoRows) {
        _tile_loadd(5, codes + 16 * row_stride, row_stride);
        _tile_dpbusd(2, 5, 6);
        if constexpr (TwoColumns) _tile_dpbusd(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums, 4 * kPanel);
  if constexpr (TwoColumns) _tile_stored(1, sums + 16, 4 * kPanel);
  if constexpr (TwoRows) _tile_stored(2, sums + 16 * kPanel, 4 * kPanel);
  if constexpr (TwoRows && TwoColumns) _tile_stored(3, sums + 16 * kPanel + 16, 4 * kPanel);
}

void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const int8_t* panel,
          int64_t columns, const int32_t* init, int32_t* sums) {
  for (int64_t c = 0; c < columns; c += 32) {
    const int8_t* w = panel + 4 * c;
    const bool two_columns = columns - c > 16;
    for (int64_t r = 0; r < rows; r += 32) {
      const uint8_t* codes = a + r * row_stride;
      int32_t* to = sums + r * kPanel + c;
      if (rows - r > 16) {
        two_columns ? tile<true, true>(codes, row_stride, runs, run_count, w, init + c, to)
                    : tile<true, false>(codes, row_stride, runs, run_count, w, init + c, to);
      } else {
        two_columns ? tile<false, true>(codes, row_stride, runs, run_count, w, init + c, to)
                    : tile<false, false>(codes, row_stride, runs, run_count, w, init + c, to);
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_vnni.h"
#include "cpu/kernels/conv_grad_generic.h"

namespace torchqat::cpu::conv {
GradKernels grad_kernels_amx() { return grad_kernels; }
Kernels kernels_amx() { return {16, &quantize_masked, &mask_values, &pad_rows, &strips}; }
}  // namespace torchqat::cpu::conv
