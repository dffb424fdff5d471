// Depthwise gradients, scalar path.
#include "cpu/kernels/depthwise_grad_generic.h"

namespace torchqat::cpu::conv {

const DepthwiseGradKernels depthwise_grad_scalar = {&unit};

}  // namespace torchqat::cpu::conv
