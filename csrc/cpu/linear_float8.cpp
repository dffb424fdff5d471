// The 8-bit float layers without 8-bit float arithmetic: rounded by the float-grid kernels, multiplied in float32, in which the
// codes' products are exact.
#include "ops/linear_float8.h"

#include "cpu/block_view.h"

namespace torchqat::cpu {
namespace {

Float8Rows float8_rows_op(const at::Tensor& input, const OptionalTensor& scale, std::string_view format, bool masked) {
  check_float8_rows(input, scale, format);
  if (scale.has_value()) qparams_view("_float8_rows", scale->detach(), std::nullopt, at::kFloat, 0, 1);
  return float8_rows_by_ops(input, scale, format, masked);
}

at::Tensor float8_multiply_op(const at::Tensor& codes, const at::Tensor& scale, std::string_view format,
                              const at::Tensor& weight_codes, const at::Tensor& weight_scale, std::string_view weight_format,
                              const OptionalTensor& bias, at::ScalarType dtype) {
  constexpr auto op = "_float8_multiply";
  const auto values = [](const at::Tensor& t, at::ScalarType type) { return t.contiguous().view(type).to(at::kFloat); };
  at::Tensor y = at::mm(values(codes, float8_type(parse_float8(op, "format", format))),
                        values(weight_codes, float8_type(parse_float8(op, "weight_format", weight_format))).t());
  y.mul_(scale.to(at::kFloat).view({-1, 1}).mul(weight_scale.detach().to(at::kFloat).view({1, -1})));
  if (bias.has_value()) y.add_(bias->detach().to(at::kFloat));
  return y.to(dtype);
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("_float8_rows", &float8_rows_op);
  m.impl("_float8_multiply", &float8_multiply_op);
}

}  // namespace
}  // namespace torchqat::cpu
