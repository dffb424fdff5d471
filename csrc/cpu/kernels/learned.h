// Backward of fake quantisation with learned scale and zero point, or learned clipping bound: one pass gives dx and the sums over each block.
#pragma once
#include <cstdint>

#include "cpu/kernels/affine.h"

namespace torchqat::cpu {

// Sums are added to ds and dz entry by entry in memory order: 16 lanes over at most `tile` elements in the compute type,
// then in double. The order depends on begin and the block structure only.
struct LearnedArgs {
  const Blocks* blocks;
  const void *x, *dy;          // dense, memory order
  void* dx;
  const void* scale;           // float, or double for f64; already clamped
  const int32_t* zero_point;   // or nullptr: 0
  int32_t quant_min, quant_max;
  double* ds;                  // sum of dy * slope
  double* dz;                  // sum of -s * dy where clipped
  bool stream;                 // write dx past the cache
};

struct LearnedKernels {
  void (*backward[4])(const LearnedArgs&, int64_t begin, int64_t end);  // [Float]; LSQ's rule
  void (*pact[4])(const LearnedArgs&, int64_t begin, int64_t end);      // [Float]; PACT's
};

extern const LearnedKernels learned_scalar, learned_avx2, learned_avx512;

}  // namespace torchqat::cpu
