// DoReFa's weights on the device: the counterpart of cpu/kernels/dorefa.h. No torch.
#pragma once
#include "cuda/kernels/learned.h"

namespace torchqat::cuda {

// n limits from the ranges of blocks; empty ranges (lo > hi) count as zero. wide: double.
void dorefa_limits(const void* lo, const void* hi, int64_t n, void* limit, bool wide, Stream stream);
// in, out, scale (the limits) and blocks of args only.
void dorefa_forward(const AffineArgs& args, Float type, Stream stream);
// Both terms of the gradient: with args.scale the limits, args.ds and args.dz as cpu/kernels/dorefa.h has them. share: room for an entry
// per block, in the compute type.
void dorefa_backward(const LearnedArgs& args, void* share, const RangePlan& plan, Float type, Stream stream);

}  // namespace torchqat::cuda
