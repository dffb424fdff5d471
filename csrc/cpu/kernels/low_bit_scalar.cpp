// Low-bit grid kernels, scalar path.
#include "cpu/kernels/low_bit_generic.h"

namespace torchqat::cpu {

const LowBitKernels low_bit_scalar = TORCHQAT_LOW_BIT_KERNELS;

}  // namespace torchqat::cpu
