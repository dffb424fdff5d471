// Backward of learned scales, avx2 path.
#include "cpu/kernels/learned_generic.h"

namespace torchqat::cpu {

const LearnedKernels learned_avx2 = TORCHQAT_LEARNED_KERNELS;

}  // namespace torchqat::cpu
