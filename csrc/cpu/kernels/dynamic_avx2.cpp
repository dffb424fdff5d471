// Fake quantisation with scales from the data, avx2 path.
#include "cpu/kernels/dynamic_generic.h"

namespace torchqat::cpu {

const DynamicKernels dynamic_avx2 = TORCHQAT_DYNAMIC_KERNELS;

}  // namespace torchqat::cpu
