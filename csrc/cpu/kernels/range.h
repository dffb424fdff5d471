// Statistics kernels over raw pointers: the finite range of each block, and scale and zero point from a range. No torch.
#pragma once
#include <cstdint>

#include "cpu/kernels/affine.h"

namespace torchqat::cpu {

struct RangeArgs {
  const Blocks* blocks;
  const void* in;   // dense, memory order
  void *lo, *hi;    // float (double for f64) per scale entry; start at +inf and -inf; the range is widened in place
};

struct RangeKernels {
  // Elements [begin, end); returns how many were not finite (those are left out).
  int64_t (*min_max[4])(const RangeArgs&, int64_t begin, int64_t end);  // [Float]
  // n entries; lo > hi (nothing seen) gives scale 1. zero_point holds integers.
  void (*qparams_f32)(const float* lo, const float* hi, int64_t n, int quant_min, int quant_max, bool symmetric, float* scale,
                      int32_t* zero_point);
  void (*qparams_f64)(const double* lo, const double* hi, int64_t n, int quant_min, int quant_max, bool symmetric,
                      double* scale, int32_t* zero_point);
};

extern const RangeKernels range_scalar, range_avx2, range_avx512;

}  // namespace torchqat::cpu
