// Backward ops of learned_scale and power_of_two_scale.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

at::Tensor learned_scale_backward(const at::Tensor& grad, const at::Tensor& log_scale, const at::Tensor& base_scale);
at::Tensor power_of_two_scale_backward(const at::Tensor& grad, const at::Tensor& scale);

}  // namespace torchqat
