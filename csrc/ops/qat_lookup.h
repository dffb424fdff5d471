// Checks and dispatching calls of the training form of element-wise functions, shared by Meta, Autograd and the devices.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

// The arguments of qat_lookup_int8 and of its forward.
void check_qat_lookup(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                      int64_t quant_max, const at::Tensor& table);
void check_slope(const at::Tensor& slope, int64_t quant_min, int64_t quant_max);
void check_qat_lookup_backward(const at::Tensor& grad, const at::Tensor& index, const at::Tensor& mask, const at::Tensor& slope);

// The output, q - quant_min in uint8 of the input's shape, and a bit for each element in memory order of the latter, set within the
// grid.
std::tuple<at::Tensor, at::Tensor, at::Tensor> qat_lookup_int8_forward(const at::Tensor& input, const at::Tensor& scale,
                                                                       const at::Tensor& zero_point, int64_t quant_min,
                                                                       int64_t quant_max, const at::Tensor& table);
// grad * slope[index] where the bit is set, 0 elsewhere.
at::Tensor qat_lookup_int8_backward(const at::Tensor& grad, const at::Tensor& index, const at::Tensor& mask, const at::Tensor& slope);

}  // namespace torchqat
