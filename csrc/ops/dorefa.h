// dorefa_weight below its public function: checks and the backward op.
#pragma once
#include "ops/blocks.h"

namespace torchqat {

// -> the shape of the limits, one per block.
SymSizes check_dorefa_weight(const at::Tensor& input, c10::SymIntArrayRef block_size);
SymSizes check_dorefa_weight_backward(const at::Tensor& grad, const at::Tensor& input, c10::SymIntArrayRef block_size);

at::Tensor dorefa_weight_symint(const at::Tensor& input, c10::SymIntArrayRef block_size);
at::Tensor dorefa_weight_backward(const at::Tensor& grad, const at::Tensor& input, c10::SymIntArrayRef block_size);

}  // namespace torchqat
