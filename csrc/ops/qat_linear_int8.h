// Checks, sizes and below-autograd entries of the int8 training layer.
#pragma once
#include "ops/torch_headers.h"
#include "torchqat/linear_int8.h"

namespace torchqat {

using OptionalTensor = std::optional<at::Tensor>;

enum class Backward { float32, bfloat16, int16, automatic };

Backward parse_backward(const char* op, c10::string_view name);

// The ranges of codes of both operands.
struct CodeRanges {
  int64_t input_min, input_max, weight_min, weight_max;
};

void check_qat_linear_int8_pack(const char* op, const at::Tensor& weight, const OptionalTensor& weight_scale,
                                int64_t quant_min, int64_t quant_max);
void check_qat_linear_int8_input(const char* op, const at::Tensor& input, const OptionalTensor& bias, const c10::SymInt& n,
                                 const at::Tensor& input_scale, const at::Tensor& input_zero_point, int64_t quant_min,
                                 int64_t quant_max);
// All of it; returns the output's sizes.
c10::SymDimVector check_qat_linear_int8(const char* op, const at::Tensor& input, const at::Tensor& weight,
                                        const OptionalTensor& bias, const at::Tensor& input_scale,
                                        const at::Tensor& input_zero_point, const OptionalTensor& weight_scale,
                                        const CodeRanges& ranges, const OptionalTensor& packed_weight = std::nullopt);

// grad_output [..., N], codes [rows, k_padded].
void check_qat_linear_int8_backward(const at::Tensor& grad_output, const at::Tensor& codes,
                                    const at::Tensor& packed_weight, c10::string_view backward);

// What qat_linear_int8_pack returns: as linear_int8_pack; mask uint8 [N, ceil(K / 8)]; scale float32 [N] or one element.
using QuantizedWeightTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// output [..., N]; codes uint8 [rows, k_padded], stored form; mask uint8 [rows, ceil(K / 8)].
using QatRows = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
QatRows qat_linear_int8_forward(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                c10::SymInt n, const OptionalTensor& bias, const at::Tensor& input_scale,
                                const at::Tensor& input_zero_point, int64_t input_quant_min, int64_t input_quant_max,
                                bool input_learned);

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// Gradients of input [..., k], weight [N, k] and bias [N]; those not wanted are empty. Without a mask (learned scales) the
// gradient is that of the dequantised operand, in float32.
Gradients qat_linear_int8_backward(const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor& mask,
                                   const at::Tensor& packed_weight, const OptionalTensor& weight_mask,
                                   const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                   const at::Tensor& weight_scale, c10::SymInt k, int64_t input_quant_min,
                                   int64_t input_quant_max, at::ScalarType input_dtype, at::ScalarType weight_dtype,
                                   c10::string_view backward, std::array<bool, 3> output_mask);

}  // namespace torchqat
