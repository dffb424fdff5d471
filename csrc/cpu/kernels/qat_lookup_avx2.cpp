// Element-wise functions in training, avx2 path.
#include "cpu/kernels/qat_lookup_generic.h"

namespace torchqat::cpu {
QatLookupKernels qat_lookup_avx2() { return {&lookup, &lookup_backward}; }
}  // namespace torchqat::cpu
