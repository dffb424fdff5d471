// Checks and below-autograd entries of the training layer with weights in groups.
#pragma once
#include "ops/qat_linear_int8.h"

namespace torchqat {

c10::SymDimVector check_qat_linear_grouped(const char* op, const at::Tensor& input, const at::Tensor& weight,
                                           const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                           const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                                           int64_t group_size, const CodeRanges& ranges);

void check_qat_linear_grouped_backward(const at::Tensor& grad_output, const at::Tensor& codes,
                                       const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                                       int64_t group_size, c10::string_view backward);

using QatForward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// output [..., N]; codes uint8 [rows, K padded to 64], stored form; mask uint8 [rows, ceil(K / 8)]; weight_codes int8
// [N, K]; weight_mask uint8 [N, ceil(K / 8)].
QatForward qat_linear_grouped_forward(const at::Tensor& input, const at::Tensor& weight,
                                      const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                      const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                                      int64_t group_size, const CodeRanges& ranges, bool input_learned,
                                      bool weight_learned);

// Gradients of input [..., K], weight [N, K] and bias [N]; those not wanted are empty. Without a mask (learned scales) the
// gradient is that of the dequantised operand.
Gradients qat_linear_grouped_backward(const at::Tensor& grad_output, const at::Tensor& codes,
                                      const std::optional<at::Tensor>& mask, const at::Tensor& weight_codes,
                                      const std::optional<at::Tensor>& weight_mask, const at::Tensor& input_scale,
                                      const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                                      int64_t group_size, int64_t input_quant_min, int64_t input_quant_max,
                                      at::ScalarType input_dtype, at::ScalarType weight_dtype, c10::string_view backward,
                                      std::array<bool, 3> output_mask);

}  // namespace torchqat
