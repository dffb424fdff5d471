// Integer-grid kernels, scalar path.
#include "cpu/kernels/affine_generic.h"

namespace torchqat::cpu {

const AffineKernels affine_scalar = TORCHQAT_AFFINE_KERNELS;

}  // namespace torchqat::cpu
