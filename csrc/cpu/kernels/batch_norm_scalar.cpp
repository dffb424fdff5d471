// BatchNorm over a batch, scalar path.
#include "cpu/kernels/batch_norm_generic.h"

namespace torchqat::cpu::batch_norm {

const Kernels kernels_scalar = TORCHQAT_BATCH_NORM_KERNELS;

}  // namespace torchqat::cpu::batch_norm
