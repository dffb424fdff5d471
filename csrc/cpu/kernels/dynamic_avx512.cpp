// Fake quantisation with scales from the data, avx512 path.
#include "cpu/kernels/dynamic_generic.h"

namespace torchqat::cpu {

const DynamicKernels dynamic_avx512 = TORCHQAT_DYNAMIC_KERNELS;

}  // namespace torchqat::cpu
