// Statistics kernels, scalar path.
#include "cpu/kernels/range_generic.h"

namespace torchqat::cpu {

const RangeKernels range_scalar = TORCHQAT_RANGE_KERNELS;

}  // namespace torchqat::cpu
