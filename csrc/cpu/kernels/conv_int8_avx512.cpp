// Convolution on AVX-512 VNNI.
#define TORCHQAT_CONV_PIXEL_TILES
#include "cpu/kernels/conv_int8.h"
#include "cpu/kernels/conv_tile_avx512.h"

namespace torchqat::cpu::conv {
namespace {

void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const int8_t* panel,
          int64_t columns, const int32_t* init, int32_t* sums) {
  gemm_tiles<U8S8>(a, row_stride, rows, runs, run_count, reinterpret_cast<const uint8_t*>(panel), columns, init, sums);
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_vnni.h"
#include "cpu/kernels/conv_grad_generic.h"
#include "cpu/kernels/conv_pixels_avx512.h"

namespace torchqat::cpu::conv {
GradKernels grad_kernels_avx512() { return grad_kernels; }
Kernels kernels_avx512() { return {1, &quantize_masked, &mask_values, &pad_rows, &reads_plain_rows, &strips}; }
}  // namespace torchqat::cpu::conv
