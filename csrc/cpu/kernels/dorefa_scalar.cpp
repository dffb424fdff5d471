// DoReFa's weights, scalar path.
#include "cpu/kernels/dorefa_generic.h"

namespace torchqat::cpu {

const DorefaKernels dorefa_scalar = TORCHQAT_DOREFA_KERNELS;

}  // namespace torchqat::cpu
