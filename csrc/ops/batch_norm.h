// batch_norm_relu below its public functions: the gradient op and what is checked on every device.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

// Gradients of input, weight and bias; one that is not wanted is empty.
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_relu_backward(
    const at::Tensor& grad_output, const at::Tensor& input, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var, double eps, bool relu,
    std::array<bool, 3> output_mask, std::optional<double> ceiling);

at::Tensor batch_norm_update_symint(at::Tensor& running_mean, at::Tensor& running_var, const at::Tensor& mean,
                                    const at::Tensor& var, c10::SymInt count, double momentum);

void check_batch_norm_relu(const at::Tensor& input, const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                           double eps, std::optional<double> ceiling);
void check_batch_norm_update(const at::Tensor& running_mean, const at::Tensor& running_var, const at::Tensor& mean,
                             const at::Tensor& var, const c10::SymInt& count, double momentum);

}  // namespace torchqat
