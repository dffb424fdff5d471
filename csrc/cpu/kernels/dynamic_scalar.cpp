// Fake quantisation with scales from the data, scalar path.
#include "cpu/kernels/dynamic_generic.h"

namespace torchqat::cpu {

const DynamicKernels dynamic_scalar = TORCHQAT_DYNAMIC_KERNELS;

}  // namespace torchqat::cpu
