// Integer forms of operations without weights, avx512 path with AVX512_VBMI: tables are looked up 64 codes at a time.
#include "cpu/kernels/forms_generic.h"

namespace torchqat::cpu::forms {
Kernels kernels_avx512vbmi() { return {&add, &average, &maximum, &lookup}; }
}  // namespace torchqat::cpu::forms
