// Fake quantisation and the range of each block in one reading of the data.
#pragma once
#include "cuda/kernels/range.h"

namespace torchqat::cuda {

// As fake_quantize and min_max, one after the other.
void fake_quantize_observed(const AffineArgs& args, const RangePlan& plan, const RangeParts& parts, Float type, Stream stream);

}  // namespace torchqat::cuda
