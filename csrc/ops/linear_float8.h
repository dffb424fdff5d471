// The 8-bit float linear layers below their public functions: rows to codes, the product of codes, and the checks.
#pragma once
#include "ops/torch_headers.h"

#include "numerics/float_format.h"
#include "torchqat/linear_float8.h"

namespace torchqat {

using OptionalTensor = std::optional<at::Tensor>;

// The format of that name, and its torch dtype.
numerics::FloatFormat parse_float8(const char* op, const char* argument, std::string_view name);
at::ScalarType float8_type(numerics::FloatFormat format);

// One element or one per row of matrix ([..., K]), floating, on input's device.
void check_float8_scale(const char* op, const char* argument, const at::Tensor& input, const at::Tensor& scale, const c10::SymInt& rows);
// All but values; returns the output's sizes. weight: floating or codes [N, K].
c10::SymDimVector check_linear_float8(const char* op, const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias);
void check_float8_rows(const at::Tensor& input, const OptionalTensor& scale, std::string_view format);

// input [..., K] to codes uint8 [rows, K] with their scale, float32: [rows] where absent, else the one given, flat. mask: one bit per
// element where the gradient passes; empty unless masked.
using Float8Rows = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
Float8Rows float8_rows(const at::Tensor& input, const OptionalTensor& scale, std::string_view format, bool masked);
// The same by other ops, for every device; its values are not checked.
Float8Rows float8_rows_by_ops(const at::Tensor& input, const OptionalTensor& scale, std::string_view format, bool masked);

// [rows, N] of dtype from codes [rows, K] and [N, K].
at::Tensor float8_multiply(const at::Tensor& codes, const at::Tensor& scale, std::string_view format, const at::Tensor& weight_codes,
                           const at::Tensor& weight_scale, std::string_view weight_format, const OptionalTensor& bias,
                           at::ScalarType dtype);

using Float8Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
Float8Gradients linear_float8_backward(const at::Tensor& grad_output, const at::Tensor& codes, const at::Tensor& scale,
                                       const at::Tensor& mask, std::string_view format, const at::Tensor& weight_codes,
                                       const at::Tensor& weight_scale, const at::Tensor& weight_mask,
                                       std::string_view weight_format, at::ScalarType input_dtype, at::ScalarType weight_dtype,
                                       std::string_view backward, std::array<bool, 3> output_mask);

}  // namespace torchqat
