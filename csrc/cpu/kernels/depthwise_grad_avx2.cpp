// Depthwise gradients, avx2 path.
#include "cpu/kernels/depthwise_grad_generic.h"

namespace torchqat::cpu::conv {

const DepthwiseGradKernels depthwise_grad_avx2 = {&unit};

}  // namespace torchqat::cpu::conv
