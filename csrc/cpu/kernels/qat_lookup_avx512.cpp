// Element-wise functions in training, avx512 path.
#include "cpu/kernels/qat_lookup_generic.h"

namespace torchqat::cpu {
QatLookupKernels qat_lookup_avx512() { return {&lookup, &lookup_backward}; }
}  // namespace torchqat::cpu
