// Stochastic rounding, avx2 path.
#include "cpu/kernels/stochastic_generic.h"

namespace torchqat::cpu {

const StochasticKernels stochastic_avx2 = TORCHQAT_STOCHASTIC_KERNELS;

}  // namespace torchqat::cpu
