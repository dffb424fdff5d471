// DoReFa's weights, avx2 path.
#include "cpu/kernels/dorefa_generic.h"

namespace torchqat::cpu {

const DorefaKernels dorefa_avx2 = TORCHQAT_DOREFA_KERNELS;

}  // namespace torchqat::cpu
