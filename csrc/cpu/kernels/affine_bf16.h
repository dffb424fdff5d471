// Fake quantisation of bfloat16 tensors on CPUs that round to it in one instruction. No torch.
#pragma once
#include "cpu/kernels/affine.h"

namespace torchqat::cpu {

// AffineKernels::fake_quantize of bfloat16, with AVX512_BF16.
void fake_quantize_bf16_avx512bf16(const AffineArgs& args, int64_t begin, int64_t end);

}  // namespace torchqat::cpu
