// Stochastic rounding on the device: the random number of an element depends on its place in memory alone, as on the CPU.
#pragma once
#include "cuda/kernels/affine.h"

namespace torchqat::cuda {

void fake_quantize_stochastic(const AffineArgs& args, uint64_t seed, uint64_t offset, Float type, Stream stream);

}  // namespace torchqat::cuda
