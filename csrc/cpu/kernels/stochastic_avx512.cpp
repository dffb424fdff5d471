// Stochastic rounding, avx512 path.
#include "cpu/kernels/stochastic_generic.h"

namespace torchqat::cpu {

const StochasticKernels stochastic_avx512 = TORCHQAT_STOCHASTIC_KERNELS;

}  // namespace torchqat::cpu
