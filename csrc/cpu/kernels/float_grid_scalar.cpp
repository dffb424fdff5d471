// Float-grid kernels, scalar path.
#include "cpu/kernels/float_grid_generic.h"

namespace torchqat::cpu {

const FloatGridKernels float_grid_scalar = TORCHQAT_FLOAT_GRID_KERNELS;

}  // namespace torchqat::cpu
