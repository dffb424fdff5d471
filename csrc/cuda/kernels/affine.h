// Integer-grid kernels on the device: fake-quantise, its backward, quantise, dequantise. No torch. The counterpart of
// cpu/kernels/affine.h: the same tensors, masks and codes. Values are not checked on the host: where a scale is not positive and
// finite or a zero point is off the grid, results are NaN (codes: the clamped zero point).
#pragma once
#include <cstdint>

#include "cpu/kernels/affine.h"

struct CUstream_st;

namespace torchqat::cuda {

using Stream = CUstream_st*;
using cpu::Blocks;
using cpu::Code;
using cpu::Float;

struct AffineArgs {
  const Blocks* blocks;
  const void* in;          // dense, memory order
  void* out;
  uint8_t* mask;           // one bit per element, set where the gradient passes; or nullptr
  const void* scale;       // device, float; double where the tensor is f64
  const void* zero_point;  // of the same type, holding integers; or nullptr: 0
  int32_t quant_min, quant_max;
};

void fake_quantize(const AffineArgs& args, Float type, Stream stream);
void quantize(const AffineArgs& args, Float in, Code out, Stream stream);
void dequantize(const AffineArgs& args, Code in, Float out, Stream stream);  // no grid: any zero point
// out = grad where the mask bit is set, else 0.
void apply_mask(const void* grad, const uint8_t* mask, void* out, int64_t numel, Float type, Stream stream);

}  // namespace torchqat::cuda
