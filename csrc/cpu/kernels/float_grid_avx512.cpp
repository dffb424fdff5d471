// Float-grid kernels, avx512 path.
#include "cpu/kernels/float_grid_generic.h"

namespace torchqat::cpu {

const FloatGridKernels float_grid_avx512 = TORCHQAT_FLOAT_GRID_KERNELS;

}  // namespace torchqat::cpu
