// Statistics kernels, avx2 path.
#include "cpu/kernels/range_generic.h"

namespace torchqat::cpu {

const RangeKernels range_avx2 = TORCHQAT_RANGE_KERNELS;

}  // namespace torchqat::cpu
