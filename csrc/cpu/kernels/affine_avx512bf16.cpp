// affine_avx512.cpp's loop, where pairs of vectors are rounded to bfloat16 at once.
#include "cpu/kernels/affine_bf16.h"

#include "cpu/kernels/affine_generic.h"

namespace torchqat::cpu {

void fake_quantize_bf16_avx512bf16(const AffineArgs& args, int64_t begin, int64_t end) {
  affine<FakeQuantize<Bf16>, numerics::Vec>(args, begin, end);
}

}  // namespace torchqat::cpu
