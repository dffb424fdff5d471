// Low-bit grid kernels, avx2 path.
#include "cpu/kernels/low_bit_generic.h"

namespace torchqat::cpu {

const LowBitKernels low_bit_avx2 = TORCHQAT_LOW_BIT_KERNELS;

}  // namespace torchqat::cpu
