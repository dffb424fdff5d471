// Backward of learned scales, scalar path.
#include "cpu/kernels/learned_generic.h"

namespace torchqat::cpu {

const LearnedKernels learned_scalar = TORCHQAT_LEARNED_KERNELS;

}  // namespace torchqat::cpu
