// Float-grid kernels, avx2 path.
#include "cpu/kernels/float_grid_generic.h"

namespace torchqat::cpu {

const FloatGridKernels float_grid_avx2 = TORCHQAT_FLOAT_GRID_KERNELS;

}  // namespace torchqat::cpu
