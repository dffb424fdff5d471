// Integer-grid kernels, avx2 path.
#include "cpu/kernels/affine_generic.h"

namespace torchqat::cpu {

const AffineKernels affine_avx2 = TORCHQAT_AFFINE_KERNELS;

}  // namespace torchqat::cpu
