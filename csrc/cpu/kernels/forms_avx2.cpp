// Integer forms of operations without weights, avx2 path.
#include "cpu/kernels/forms_generic.h"

namespace torchqat::cpu::forms {
Kernels kernels_avx2() { return {&add, &average, &maximum, &lookup}; }
}  // namespace torchqat::cpu::forms
