// BatchNorm over a batch, avx2 path.
#include "cpu/kernels/batch_norm_generic.h"

namespace torchqat::cpu::batch_norm {

const Kernels kernels_avx2 = TORCHQAT_BATCH_NORM_KERNELS;

}  // namespace torchqat::cpu::batch_norm
