// Values on an MX or NVFP4 grid to the operands of block-scaled tensor cores. No torch, no word back to the host.
#pragma once
#include "cuda/kernels/affine.h"
#include "numerics/float_format.h"

namespace torchqat::cuda {

struct BlockFloatArgs {
  const void* input = nullptr;            // [rows, columns], columns in whole blocks
  Float type = Float::f32;                // f32, bf16 or f16
  int64_t rows = 0, columns = 0;
  // e4m3fn or e5m2: blocks of 32, a byte per element, scales in e8m0. e2m1: blocks of 16, two elements per byte, the first in the
  // low half, scales in e4m3fn times tensor_scale.
  numerics::FloatFormat format = numerics::FloatFormat::e4m3fn;
  const float* tensor_scale = nullptr;    // e2m1: one value
  uint8_t* codes = nullptr;               // [rows, columns] or [rows, columns / 2]; what is not finite becomes NaN, in e2m1 its block's scale
  uint8_t* scale = nullptr;               // rows and blocks rounded up to 128 and 4, in the order of numerics::swizzled_scale
};
void block_float_codes(const BlockFloatArgs& args, Stream stream);

}  // namespace torchqat::cuda
