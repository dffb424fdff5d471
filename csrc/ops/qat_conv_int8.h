// The training convolution below its public function: the ops that carry what backward needs, and their checks.
#pragma once
#include "ops/conv_int8.h"

namespace torchqat {

struct QatConvResult {
  at::Tensor output;
  at::Tensor codes;         // uint8, shape and memory format of input; signed grids shifted by 128
  at::Tensor mask;          // uint8 [N, ceil(sample / 8)]: bit i of a sample, in memory order, is 1 inside the grid
  at::Tensor weight_codes;  // int8, in the memory format of weight, as is its gradient
  at::Tensor weight_mask;   // uint8 [out, ceil(in / groups * taps / 8)]: the same for each output channel
};
QatConvResult qat_conv_forward(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                               const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                               const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                               int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride,
                               at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool learned);

// Gradients in float32, with respect to the dequantised input and weight where no mask is given; a gradient that is not
// wanted is empty.
std::tuple<at::Tensor, at::Tensor, at::Tensor> qat_conv_backward(
    const at::Tensor& grad_output, const at::Tensor& codes, const std::optional<at::Tensor>& mask,
    const at::Tensor& weight_codes, const std::optional<at::Tensor>& weight_mask, const at::Tensor& input_scale,
    const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, std::array<bool, 3> output_mask,
    std::string_view backward);

// What Meta and CPU check alike, beyond check_conv_int8.
void check_qat_conv(const char* op, const at::Tensor& input, const at::Tensor& weight, const at::Tensor& weight_scale,
                    int64_t weight_quant_min, int64_t weight_quant_max, int64_t groups);
void check_backward_mode(const char* op, std::string_view backward);

}  // namespace torchqat
