// Convolution: the reference path, plain integer loops.
#include "cpu/kernels/conv_int8.h"

namespace torchqat::cpu::conv {
namespace {

void gemm_begin() {}
void gemm_end() {}

void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const int8_t* panel,
          int64_t columns, const int32_t* init, int32_t* sums) {
  for (int64_t r = 0; r < rows; ++r) {
    uint32_t acc[kPanel];
    for (int64_t i = 0; i < kPanel; ++i) acc[i] = static_cast<uint32_t>(init[i]);
    for (int j = 0; j < run_count; ++j) {
      const uint8_t* codes = a + r * row_stride + runs[j].a;
      const int8_t* w = panel + runs[j].w;
      for (int64_t g = 0; g < runs[j].groups; ++g, codes += 4, w += 4 * kPanel) {
        for (int64_t i = 0; i < columns; ++i) {
          acc[i] += static_cast<uint32_t>(codes[0] * w[4 * i] + codes[1] * w[4 * i + 1] + codes[2] * w[4 * i + 2] +
                                          codes[3] * w[4 * i + 3]);
        }
      }
    }
    for (int64_t i = 0; i < kPanel; ++i) sums[r * kPanel + i] = static_cast<int32_t>(acc[i]);
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_plain.h"
#include "cpu/kernels/conv_grad_generic.h"

namespace torchqat::cpu::conv {
GradKernels grad_kernels_scalar() { return grad_kernels; }
Kernels kernels_scalar() { return {1, &quantize_masked, &mask_values, &pad_rows, &reads_plain_rows, &strips}; }
}  // namespace torchqat::cpu::conv
