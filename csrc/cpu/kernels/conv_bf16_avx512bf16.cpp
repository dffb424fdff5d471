// bfloat16 gradients of a convolution on AVX512_BF16.
#include "cpu/kernels/conv_bf16.h"
#include "cpu/kernels/conv_tile_avx512.h"
#include "cpu/kernels/conv_bf16_generic.h"

namespace torchqat::cpu::conv {
Bf16Kernels bf16_kernels_avx512bf16() { return bf16_kernels; }
}  // namespace torchqat::cpu::conv
