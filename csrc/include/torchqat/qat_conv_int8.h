// Convolution layers in training, computed on integer codes.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

#include "torchqat/export.h"

namespace torchqat {

// Quantises input [N, in, *spatial] (one scale and zero point, or one for each sample) and weight [out, in / groups,
// *kernel] (one scale, or one for each output channel, zero point 0), convolves the codes as conv_int8 does, and passes
// gradients straight through inside the grids. Learned scales and zero points get the gradients of fake_quantize_learned.
// backward: "float32", "bfloat16", "int16" or "auto".
TORCHQAT_API at::Tensor qat_conv_int8(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                      const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                      const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                                      int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride,
                                      at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                                      bool input_learned = false, bool weight_learned = false, double input_grad_scale = 1.0,
                                      double weight_grad_scale = 1.0, std::string_view backward = "auto");

}  // namespace torchqat
