// Integer-grid kernels, avx512 path.
#include "cpu/kernels/affine_generic.h"

namespace torchqat::cpu {

const AffineKernels affine_avx512 = TORCHQAT_AFFINE_KERNELS;

}  // namespace torchqat::cpu
