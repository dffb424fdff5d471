// bfloat16 gradients of a convolution on AMX-BF16.
#include "cpu/kernels/conv_bf16.h"
#include "cpu/kernels/conv_tile_amx.h"
#include "cpu/kernels/conv_bf16_generic.h"

namespace torchqat::cpu::conv {
Bf16Kernels bf16_kernels_amx() { return bf16_kernels; }
}  // namespace torchqat::cpu::conv
