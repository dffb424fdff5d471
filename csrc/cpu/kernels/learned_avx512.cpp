// Backward of learned scales, avx512 path.
#include "cpu/kernels/learned_generic.h"

namespace torchqat::cpu {

const LearnedKernels learned_avx512 = TORCHQAT_LEARNED_KERNELS;

}  // namespace torchqat::cpu
