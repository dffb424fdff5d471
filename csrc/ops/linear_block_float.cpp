// Schemas, checks and C++ entry point of linear_block_float, and its float product, which serves every device.
#include "ops/linear_block_float.h"

#include "ops/call.h"
#include "ops/linear_int8.h"

namespace torchqat {

using numerics::FloatFormat;

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "linear_block_float(Tensor input, Tensor weight, Tensor? bias, str input_format, str weight_format, Tensor? unrounded=None, "
      "ScalarType? dtype=None) -> Tensor");
  m.def(
      "_linear_block_float_backward(Tensor grad_output, Tensor input, Tensor weight, bool[3] output_mask) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

FloatFormat carrier_format(const char* argument, std::string_view name) {
  if (name == "nvfp4") return FloatFormat::e2m1;
  if (name == "mxfp8_e5m2") return FloatFormat::e5m2;
  TORCH_CHECK_VALUE(name == "mxfp8_e4m3" || name == "mxfp6_e3m2" || name == "mxfp6_e2m3" || name == "mxfp4", "linear_block_float: ",
                    argument, " must be mxfp8_e4m3, mxfp8_e5m2, mxfp6_e3m2, mxfp6_e2m3, mxfp4 or nvfp4, got '", name, "'");
  return FloatFormat::e4m3fn;
}

c10::SymDimVector check_linear_block_float(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                           std::string_view input_format, std::string_view weight_format,
                                           const OptionalTensor& unrounded) {
  constexpr auto op = "linear_block_float";
  const auto floating = [&](const char* argument, const at::Tensor& t) {
    TORCH_CHECK_TYPE(at::isFloatingType(t.scalar_type()), op, ": ", argument, " must have a floating dtype, got ", t.scalar_type());
    TORCH_CHECK_VALUE(t.device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(), ", got ",
                      t.device());
  };
  floating("input", input);
  floating("weight", weight);
  TORCH_CHECK_VALUE(weight.dim() == 2, op, ": weight must have shape [N, K], got ", weight.sym_sizes());
  TORCH_CHECK_VALUE(input.dim() >= 1 && input.sym_size(-1) == weight.sym_size(1), op, ": input must have shape [..., ",
                    weight.sym_size(1), "], got ", input.sym_sizes());
  if (unrounded.has_value()) floating("unrounded", *unrounded);
  if (bias.has_value()) {
    floating("bias", *bias);
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0), op, ": bias must have shape [",
                      weight.sym_size(0), "], got ", bias->sym_sizes());
  }
  const FloatFormat a = carrier_format("input_format", input_format), b = carrier_format("weight_format", weight_format);
  TORCH_CHECK_VALUE((a == FloatFormat::e2m1) == (b == FloatFormat::e2m1), op,
                    ": input_format and weight_format must both be MX formats or both nvfp4, got '", input_format, "' and '",
                    weight_format, "'");
  c10::SymDimVector sizes(input.sym_sizes().begin(), input.sym_sizes().end());
  sizes.back() = weight.sym_size(0);
  return sizes;
}

at::Tensor linear_of_values(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias, at::ScalarType dtype) {
  const OptionalTensor b = bias.has_value() ? OptionalTensor(bias->to(dtype)) : std::nullopt;
  return at::linear(input.to(dtype), weight.to(dtype), b);
}

at::Tensor linear_block_float(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                              std::string_view input_format, std::string_view weight_format, const OptionalTensor& unrounded,
                              std::optional<at::ScalarType> dtype) {
  static const auto op = find_op<decltype(linear_block_float)>("torchqat::linear_block_float");
  return op.call(input, weight, bias, input_format, weight_format, unrounded, dtype);
}

BlockFloatGradients linear_block_float_backward(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& weight,
                                                std::array<bool, 3> output_mask) {
  static const auto op = find_op<decltype(linear_block_float_backward)>("torchqat::_linear_block_float_backward");
  return op.call(grad_output, input, weight, output_mask);
}

namespace {

at::Tensor linear_block_float_op(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                 std::string_view input_format, std::string_view weight_format, const OptionalTensor& unrounded,
                                 std::optional<at::ScalarType> dtype) {
  check_linear_block_float(input, weight, bias, input_format, weight_format, unrounded);
  return linear_of_values(input, weight, bias, dtype.value_or(input.scalar_type()));
}

// Products in the type of the gradient, as those of a float layer.
BlockFloatGradients backward_op(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& weight,
                                std::array<bool, 3> wanted) {
  const at::Tensor g = grad_output.reshape_symint({row_count(grad_output), weight.sym_size(0)});
  const auto none = [](const at::Tensor& like) { return at::empty({0}, like.options()); };
  at::Tensor grad_input = none(input), grad_weight = none(weight), grad_bias = none(grad_output);
  if (wanted[0]) grad_input = at::mm(g, weight.to(g.scalar_type())).to(input.scalar_type()).view_symint(input.sym_sizes());
  if (wanted[1]) {
    const at::Tensor x = input.reshape_symint({row_count(input), input.sym_size(-1)}).to(g.scalar_type());
    grad_weight = at::mm(g.t(), x).to(weight.scalar_type());
  }
  if (wanted[2]) grad_bias = g.sum(0);
  return {grad_input, grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) { m.impl("linear_block_float", &linear_block_float_op); }
TORCH_LIBRARY_IMPL(torchqat, CompositeExplicitAutograd, m) { m.impl("_linear_block_float_backward", &backward_op); }

}  // namespace
}  // namespace torchqat
