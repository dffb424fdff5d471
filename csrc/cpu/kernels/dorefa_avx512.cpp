// DoReFa's weights, avx512 path.
#include "cpu/kernels/dorefa_generic.h"

namespace torchqat::cpu {

const DorefaKernels dorefa_avx512 = TORCHQAT_DOREFA_KERNELS;

}  // namespace torchqat::cpu
