// The deployed int8 linear layer between integer layers: codes in, codes out, or either.
#pragma once
#include <ATen/core/Tensor.h>

#include <torchqat/export.h>

namespace torchqat {

// linear_int8 that also takes codes of its input's grid (uint8 of a range from 0 up, int8 of one that goes below) and, given an output
// grid, returns codes clamp(rint(y / output_scale) + output_zero_point) of y, or of max(y, 0) if relu; NaN becomes the zero point.
// Codes need one input scale. Without an output grid codes give float32.
TORCHQAT_API at::Tensor linear_int8_codes(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                          const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                          const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max, bool relu = false,
                                          const std::optional<at::Tensor>& output_scale = {},
                                          const std::optional<at::Tensor>& output_zero_point = {}, int64_t output_quant_min = 0,
                                          int64_t output_quant_max = 255);

}  // namespace torchqat
