// DoReFa's weights over raw pointers: tanh over the block's limit, and the gradient. No torch.
#pragma once
#include <cstdint>

#include "cpu/kernels/learned.h"

namespace torchqat::cpu {

// x, dx as in LearnedArgs; dx is changed in place.
struct AtLimitArgs {
  const Blocks* blocks;
  const void* x;
  void* dx;
  const void *limit, *share, *threshold;  // one per scale entry; float, or double for f64. No smaller magnitude is at the limit
};

struct DorefaKernels {
  // n limits from the largest finite magnitudes.
  void (*limits_f32)(const float* largest, int64_t n, float* limit);
  void (*limits_f64)(const double* largest, int64_t n, double* limit);
  // in, out, scale (the limits) and blocks of args only.
  void (*forward[4])(const AffineArgs&, int64_t begin, int64_t end);         // [Float]
  // scale holds the limits; dx without the limits' gradient; ds sums dy * tanh, dz sums -limit for every element at it.
  void (*backward[4])(const LearnedArgs&, int64_t begin, int64_t end);       // [Float]
  // Subtracts a block's share, with the sign of x, from dx of the elements at its limit.
  void (*at_limit[4])(const AtLimitArgs&, int64_t begin, int64_t end);       // [Float]
};

extern const DorefaKernels dorefa_scalar, dorefa_avx2, dorefa_avx512;

}  // namespace torchqat::cpu
