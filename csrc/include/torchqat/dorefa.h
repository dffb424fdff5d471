// DoReFa's weights. block_size as in fake_quantize.h.
#pragma once
#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// tanh(input) / max|tanh(input)| of each block (DoReFa-Net, Zhou 2016): in [-1, 1], to be rounded by a fake-quant op; a block of zeros
// stays zero. Values that are not finite take no part in the maximum; NaN stays NaN. Differentiable, through the maximum too: elements that
// share it share its gradient.
TORCHQAT_API at::Tensor dorefa_weight(const at::Tensor& input, at::IntArrayRef block_size);

}  // namespace torchqat
