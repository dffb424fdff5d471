// Float-grid kernels on the device: rounding to a small float format with given scales, and the block scales of MX and NVFP4 from
// the ranges of cuda/kernels/range.h. No torch.
#pragma once
#include "cuda/kernels/range.h"
#include "numerics/float_format.h"

namespace torchqat::cuda {

struct FloatGridArgs {
  const Blocks* blocks;
  const void* in;
  void* out;
  uint8_t* mask;      // one bit per element, set where the gradient passes; or nullptr
  const void* scale;  // device, float; double where the tensor is f64
  numerics::FloatFormat format;
};
void fake_quantize_float(const FloatGridArgs& args, Float type, Stream stream);

enum class FloatScales { mx, nvfp4_tensor, nvfp4 };
struct FloatScaleArgs {
  int64_t scales, chunks;
  RangeParts parts;
  FloatScales kind;
  numerics::FloatFormat format;
  numerics::ScaleRounding rounding;
  const void* tensor_scale;  // nvfp4: one value
  void* scale;               // [scales]
};
// Blocks' scales from the data and rounding in one reading; args.scale is not used. False, and nothing is done, where blocks are
// too long for registers or their packets straddle rows.
bool fake_quantize_float_blocks(const FloatGridArgs& args, FloatScales kind, numerics::ScaleRounding rounding,
                                const void* tensor_scale, Float type, Stream stream);
// wide: float64.
void finish_float_scales(const FloatScaleArgs& args, bool wide, Stream stream);

}  // namespace torchqat::cuda
