// Depthwise gradients, avx512 path.
#include "cpu/kernels/depthwise_grad_generic.h"

namespace torchqat::cpu::conv {

const DepthwiseGradKernels depthwise_grad_avx512 = {&unit};

}  // namespace torchqat::cpu::conv
