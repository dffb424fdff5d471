// Fake quantisation with scales from the data, for blocks that lie one after another in memory: each block's range is taken
// and its elements are quantised while they are in the first-level cache. No torch.
#pragma once
#include <cstdint>

#include "cpu/kernels/affine.h"

namespace torchqat::cpu {

struct DynamicArgs {
  const void* in;
  void* out;
  uint8_t* mask;           // as AffineArgs
  int64_t numel, width;    // blocks of width elements, a multiple of 16; the last may be short
  int32_t quant_min, quant_max;
  bool symmetric;
  bool stream;
};

struct DynamicKernels {
  // Blocks [begin, end); returns how many elements were not finite (those are left out of the ranges).
  int64_t (*fake_quantize[4])(const DynamicArgs&, int64_t begin, int64_t end);  // [Float]
  // Elements [begin, end) of a tensor with one given scale, and their range, from one reading; lo and hi are widened. [Float]
  // without f64; nullptr where it would not be faster than two readings from the cache. False where something is not
  // finite: then the output is right and the range is not.
  bool (*observed[3])(const AffineArgs&, int64_t begin, int64_t end, float* lo, float* hi);
};

extern const DynamicKernels dynamic_scalar, dynamic_avx2, dynamic_avx512;

}  // namespace torchqat::cpu
