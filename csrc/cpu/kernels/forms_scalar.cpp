// Integer forms of operations without weights, scalar path.
#include "cpu/kernels/forms_generic.h"

namespace torchqat::cpu::forms {
Kernels kernels_scalar() { return {&add, &average, &maximum, &lookup}; }
}  // namespace torchqat::cpu::forms
