// BatchNorm in training, with the ReLU behind it in the same passes.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "torchqat/export.h"

namespace torchqat {

// Normalises each channel of input [N, C, *spatial] with its own mean and biased variance over the batch, then weight and
// bias (each [C], or absent: 1 and 0), then max(0, y) if relu, and min(ceiling, y) beside it (6 makes a ReLU6). Returns output, mean and var (float32 [C], constants to
// autograd). Backward needs the input only: neither the output nor a mask is kept.
TORCHQAT_API std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_relu(const at::Tensor& input,
                                                                            const std::optional<at::Tensor>& weight,
                                                                            const std::optional<at::Tensor>& bias,
                                                                            double eps, bool relu = true,
                                                                            std::optional<double> ceiling = std::nullopt);

// running = (1 - momentum) * running + momentum * (mean, or var made unbiased for `count` elements); returns that unbiased var.
TORCHQAT_API at::Tensor batch_norm_update_(at::Tensor& running_mean, at::Tensor& running_var, const at::Tensor& mean,
                                           const at::Tensor& var, int64_t count, double momentum);

}  // namespace torchqat
