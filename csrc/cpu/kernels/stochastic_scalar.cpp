// Stochastic rounding, scalar path.
#include "cpu/kernels/stochastic_generic.h"

namespace torchqat::cpu {

const StochasticKernels stochastic_scalar = TORCHQAT_STOCHASTIC_KERNELS;

}  // namespace torchqat::cpu
