// Element-wise functions in training, scalar path.
#include "cpu/kernels/qat_lookup_generic.h"

namespace torchqat::cpu {
QatLookupKernels qat_lookup_scalar() { return {&lookup, &lookup_backward}; }
}  // namespace torchqat::cpu
