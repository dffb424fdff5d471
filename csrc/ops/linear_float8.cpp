// Schemas, checks and C++ entry points of the 8-bit float linear layers; their kernels that are the same on every device.
#include "ops/linear_float8.h"

#include "ops/call.h"
#include "ops/fake_quantize.h"
#include "ops/float_grid.h"
#include "ops/linear_int8.h"
#include "ops/qat_linear_int8.h"
#include "torchqat/qparams.h"

namespace torchqat {

using numerics::FloatFormat;

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "linear_float8(Tensor input, Tensor weight_codes, Tensor weight_scale, Tensor? bias, Tensor? input_scale, "
      "str input_format, str weight_format) -> Tensor");
  m.def(
      "qat_linear_float8(Tensor input, Tensor weight, Tensor? bias, Tensor? input_scale, Tensor? weight_scale, "
      "str input_format, str weight_format, str backward=\"auto\") -> Tensor");
  m.def("_float8_rows(Tensor input, Tensor? scale, str format, bool masked) -> (Tensor codes, Tensor scale, Tensor mask)");
  m.def(
      "_float8_multiply(Tensor codes, Tensor scale, str format, Tensor weight_codes, Tensor weight_scale, str weight_format, "
      "Tensor? bias, ScalarType dtype) -> Tensor");
  m.def(
      "_linear_float8_backward(Tensor grad_output, Tensor codes, Tensor scale, Tensor mask, str format, Tensor weight_codes, "
      "Tensor weight_scale, Tensor weight_mask, str weight_format, ScalarType input_dtype, ScalarType weight_dtype, str backward, "
      "bool[3] output_mask) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

FloatFormat parse_float8(const char* op, const char* argument, std::string_view name) {
  TORCH_CHECK_VALUE(name == "e4m3fn" || name == "e5m2", op, ": ", argument, " must be e4m3fn or e5m2, got '", name, "'");
  return name == "e5m2" ? FloatFormat::e5m2 : FloatFormat::e4m3fn;
}

at::ScalarType float8_type(FloatFormat format) {
  return format == FloatFormat::e5m2 ? at::kFloat8_e5m2 : at::kFloat8_e4m3fn;
}

namespace {
void check_device(const char* op, const at::Tensor& input, const at::Tensor& t) {
  TORCH_CHECK_VALUE(t.device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(), ", got ",
                    t.device());
}

void check_layer_type(const char* op, const char* argument, const at::Tensor& t) {
  TORCH_CHECK_TYPE(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16 || t.scalar_type() == at::kHalf, op, ": ",
                   argument, " must be float32, bfloat16 or float16, got ", t.scalar_type());
}
}  // namespace

void check_float8_scale(const char* op, const char* argument, const at::Tensor& input, const at::Tensor& scale, const c10::SymInt& rows) {
  TORCH_CHECK_TYPE(at::isFloatingType(scale.scalar_type()), op, ": ", argument, " must have a floating dtype, got ",
                   scale.scalar_type());
  check_device(op, input, scale);
  const c10::SymInt count = scale.sym_numel();
  if (count == 1) return;
  TORCH_CHECK_VALUE(count == rows, op, ": ", argument, " must have one element or one per row (", rows, "), got shape ",
                    scale.sym_sizes());
}

c10::SymDimVector check_linear_float8(const char* op, const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias) {
  check_layer_type(op, "input", input);
  TORCH_CHECK_VALUE(weight.dim() == 2, op, ": weight must have shape [N, K], got ", weight.sym_sizes());
  TORCH_CHECK_VALUE(input.dim() >= 1 && input.sym_size(-1) == weight.sym_size(1), op, ": input must have shape [..., ",
                    weight.sym_size(1), "], got ", input.sym_sizes());
  check_device(op, input, weight);
  if (bias.has_value()) {
    TORCH_CHECK_TYPE(at::isFloatingType(bias->scalar_type()), op, ": bias must have a floating dtype, got ", bias->scalar_type());
    check_device(op, input, *bias);
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0), op, ": bias must have shape [",
                      weight.sym_size(0), "], got ", bias->sym_sizes());
  }
  c10::SymDimVector sizes(input.sym_sizes().begin(), input.sym_sizes().end());
  sizes.back() = weight.sym_size(0);
  return sizes;
}

void check_float8_rows(const at::Tensor& input, const OptionalTensor& scale, std::string_view format) {
  constexpr auto op = "_float8_rows";
  check_layer_type(op, "input", input);
  TORCH_CHECK_VALUE(input.dim() >= 1, op, ": input must have at least one dimension, got shape ", input.sym_sizes());
  parse_float8(op, "format", format);
  if (scale.has_value()) check_float8_scale(op, "scale", input, *scale, row_count(input));
}

Float8Rows float8_rows(const at::Tensor& input, const OptionalTensor& scale, std::string_view format, bool masked) {
  static const auto op = find_op<decltype(float8_rows)>("torchqat::_float8_rows");
  return op.call(input, scale, format, masked);
}

Float8Rows float8_rows_by_ops(const at::Tensor& input, const OptionalTensor& scale, std::string_view format, bool masked) {
  const FloatFormat kind = parse_float8("_float8_rows", "format", format);
  const auto most = static_cast<int64_t>(numerics::format_specs[static_cast<int>(kind)].largest);
  const at::Tensor x = input.detach().contiguous().view_symint({row_count(input), input.sym_size(-1)});
  at::Tensor found;
  if (scale.has_value()) {
    found = scale->detach().to(at::kFloat).contiguous().view(-1);
  } else {
    found = std::get<0>(choose_qparams(x, {1, -1}, -most, most, /*symmetric=*/true)).view(-1);
  }
  const at::Tensor ratio = x.to(at::kFloat).div(found.view({-1, 1}));
  at::Tensor values, mask;
  if (masked) {
    std::tie(values, mask) = fake_quantize_float_forward(ratio, std::nullopt, {}, format, "floor");
  } else {
    values = fake_quantize_float_symint(ratio, std::nullopt, {}, format, "floor");
    mask = at::empty({0}, x.options().dtype(at::kByte));
  }
  return {values.to(float8_type(kind)).view(at::kByte), found, mask};
}

at::Tensor float8_multiply(const at::Tensor& codes, const at::Tensor& scale, std::string_view format, const at::Tensor& weight_codes,
                           const at::Tensor& weight_scale, std::string_view weight_format, const OptionalTensor& bias,
                           at::ScalarType dtype) {
  static const auto op = find_op<decltype(float8_multiply)>("torchqat::_float8_multiply");
  return op.call(codes, scale, format, weight_codes, weight_scale, weight_format, bias, dtype);
}

Float8Gradients linear_float8_backward(const at::Tensor& grad_output, const at::Tensor& codes, const at::Tensor& scale,
                                       const at::Tensor& mask, std::string_view format, const at::Tensor& weight_codes,
                                       const at::Tensor& weight_scale, const at::Tensor& weight_mask,
                                       std::string_view weight_format, at::ScalarType input_dtype, at::ScalarType weight_dtype,
                                       std::string_view backward, std::array<bool, 3> output_mask) {
  static const auto op = find_op<decltype(linear_float8_backward)>("torchqat::_linear_float8_backward");
  return op.call(grad_output, codes, scale, mask, format, weight_codes, weight_scale, weight_mask, weight_format, input_dtype,
                 weight_dtype, backward, output_mask);
}

at::Tensor linear_float8(const at::Tensor& input, const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                         const OptionalTensor& bias, const OptionalTensor& input_scale, std::string_view input_format,
                         std::string_view weight_format) {
  static const auto op = find_op<decltype(linear_float8)>("torchqat::linear_float8");
  return op.call(input, weight_codes, weight_scale, bias, input_scale, input_format, weight_format);
}

at::Tensor qat_linear_float8(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                             const OptionalTensor& input_scale, const OptionalTensor& weight_scale, std::string_view input_format,
                             std::string_view weight_format, std::string_view backward) {
  static const auto op = find_op<decltype(qat_linear_float8)>("torchqat::qat_linear_float8");
  return op.call(input, weight, bias, input_scale, weight_scale, input_format, weight_format, backward);
}

namespace {

at::Tensor linear_float8_op(const at::Tensor& input, const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                            const OptionalTensor& bias, const OptionalTensor& input_scale, std::string_view input_format,
                            std::string_view weight_format) {
  constexpr auto op = "linear_float8";
  const auto sizes = check_linear_float8(op, input, weight_codes, bias);
  TORCH_CHECK_TYPE(weight_codes.scalar_type() == at::kByte, op, ": weight_codes must be uint8, got ", weight_codes.scalar_type());
  parse_float8(op, "input_format", input_format);
  parse_float8(op, "weight_format", weight_format);
  check_float8_scale(op, "weight_scale", input, weight_scale, weight_codes.sym_size(0));
  if (input_scale.has_value()) check_float8_scale(op, "input_scale", input, *input_scale, row_count(input));
  const auto [codes, scale, mask] = float8_rows(input, input_scale, input_format, /*masked=*/false);
  return float8_multiply(codes, scale, input_format, weight_codes, weight_scale, weight_format, bias, input.scalar_type())
      .view_symint(sizes);
}

at::Tensor qat_linear_float8_op(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                const OptionalTensor& input_scale, const OptionalTensor& weight_scale,
                                std::string_view input_format, std::string_view weight_format, std::string_view backward) {
  parse_backward("qat_linear_float8", backward);
  const auto sizes = check_linear_float8("qat_linear_float8", input, weight, bias);
  const auto [codes, scale, mask] = float8_rows(input, input_scale, input_format, /*masked=*/false);
  const auto [weight_codes, found, weight_mask] = float8_rows(weight, weight_scale, weight_format, /*masked=*/false);
  return float8_multiply(codes, scale, input_format, weight_codes, found, weight_format, bias, input.scalar_type())
      .view_symint(sizes);
}

// Codes are exact in bfloat16 too.
Float8Gradients backward_op(const at::Tensor& grad_output, const at::Tensor& codes, const at::Tensor& scale, const at::Tensor& mask,
                            std::string_view format, const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                            const at::Tensor& weight_mask, std::string_view weight_format, at::ScalarType input_dtype,
                            at::ScalarType weight_dtype, std::string_view backward, std::array<bool, 3> wanted) {
  constexpr auto op = "_linear_float8_backward";
  const auto mode = parse_backward(op, backward);
  const auto format_type = float8_type(parse_float8(op, "format", format));
  const auto weight_type = float8_type(parse_float8(op, "weight_format", weight_format));
  const bool narrow = mode == Backward::bfloat16 || (mode == Backward::automatic && grad_output.is_cuda());
  const auto type = narrow ? at::kBFloat16 : at::kFloat;
  const at::Tensor grad =
      grad_output.contiguous().view_symint({codes.sym_size(0), weight_codes.sym_size(0)}).to(at::kFloat);
  const auto finish = [](const at::Tensor& product, const at::Tensor& bits, at::ScalarType dtype) {
    const at::Tensor values = product.to(dtype);
    return bits.sym_numel() == 0 ? values : fake_quantize_backward(values, bits, {});
  };
  const auto empty = [&](at::ScalarType dtype) { return at::empty({0}, grad_output.options().dtype(dtype)); };
  at::Tensor grad_input, grad_weight, grad_bias;
  if (wanted[0]) {
    auto sizes = grad_output.sym_sizes().vec();
    sizes.back() = codes.sym_size(1);
    const at::Tensor product = at::mm(grad.mul(weight_scale.to(at::kFloat).view({1, -1})).to(type), weight_codes.view(weight_type).to(type));
    grad_input = finish(product, mask, input_dtype).view_symint(sizes);
  }
  if (wanted[1]) {
    const at::Tensor product = at::mm(grad.mul(scale.to(at::kFloat).view({-1, 1})).to(type).t(), codes.view(format_type).to(type));
    grad_weight = finish(product, weight_mask, weight_dtype);
  }
  if (wanted[2]) grad_bias = grad.sum(0);
  return {wanted[0] ? grad_input : empty(input_dtype), wanted[1] ? grad_weight : empty(weight_dtype),
          wanted[2] ? grad_bias : empty(at::kFloat)};
}

TORCH_LIBRARY_IMPL(torchqat, CompositeExplicitAutograd, m) {
  m.impl("linear_float8", &linear_float8_op);
  m.impl("qat_linear_float8", &qat_linear_float8_op);
  m.impl("_linear_float8_backward", &backward_op);
}

}  // namespace
}  // namespace torchqat
