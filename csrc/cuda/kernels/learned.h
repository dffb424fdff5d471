// Backward of fake quantisation with learned scale and zero point: one pass gives dx and partial sums of each block, a second adds
// them. The division of the work is that of range.h and depends on the block structure alone, so the sums have a fixed order; they
// are in double.
#pragma once
#include "cuda/kernels/range.h"

namespace torchqat::cuda {

struct LearnedArgs {
  const Blocks* blocks;
  const void *x, *dy;       // dense, memory order
  void* dx;
  const void *scale, *zero_point;  // as in AffineArgs, already clamped; zero_point may be nullptr
  int32_t quant_min, quant_max;
  double *part_ds, *part_dz;       // [chunks][scales]
  double *ds, *dz;                 // [scales], times grad_scale
  double grad_scale;
  bool pact;                       // PACT's rule instead of LSQ's
};
void learned_backward(const LearnedArgs& args, const RangePlan& plan, Float type, Stream stream);

}  // namespace torchqat::cuda
