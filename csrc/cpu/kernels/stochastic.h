// Fake quantisation with stochastic rounding, raw pointers.
#pragma once
#include <cstdint>

#include "cpu/kernels/affine.h"

namespace torchqat::cpu {

struct StochasticKernels {
  // As AffineKernels::fake_quantize. The random number of an element: seed, offset, place in the memory order.
  void (*fake_quantize[4])(const AffineArgs&, int64_t begin, int64_t end, uint64_t seed, uint64_t offset);  // [Float]
};

extern const StochasticKernels stochastic_scalar, stochastic_avx2, stochastic_avx512;

}  // namespace torchqat::cpu
