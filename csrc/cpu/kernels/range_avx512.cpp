// Statistics kernels, avx512 path.
#include "cpu/kernels/range_generic.h"

namespace torchqat::cpu {

const RangeKernels range_avx512 = TORCHQAT_RANGE_KERNELS;

}  // namespace torchqat::cpu
