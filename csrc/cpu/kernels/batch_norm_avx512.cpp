// BatchNorm over a batch, avx512 path.
#include "cpu/kernels/batch_norm_generic.h"

namespace torchqat::cpu::batch_norm {

const Kernels kernels_avx512 = TORCHQAT_BATCH_NORM_KERNELS;

}  // namespace torchqat::cpu::batch_norm
