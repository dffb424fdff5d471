// Integer forms of operations without weights, avx512 path.
#include "cpu/kernels/forms_generic.h"

namespace torchqat::cpu::forms {
Kernels kernels_avx512() { return {&add, &average, &maximum, &lookup}; }
}  // namespace torchqat::cpu::forms
