// Gradients of the 8-bit float linear layers: what is saved is codes and bit masks. No arithmetic here.
#include "ops/linear_float8.h"

#include "ops/qat_linear_int8.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Of training (weight floating, rounded here) and deployed layers (weight: codes).
struct LinearFloat8 : torch::autograd::Function<LinearFloat8> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& weight, const OptionalTensor& weight_scale,
                          const OptionalTensor& bias, const OptionalTensor& input_scale, std::string_view input_format,
                          std::string_view weight_format, std::string_view backward) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto sizes = check_linear_float8("linear_float8", input, weight, bias);
    const bool trains = weight.scalar_type() != at::kByte;
    auto [codes, scale, mask] = float8_rows(input, input_scale, input_format, /*masked=*/true);
    at::Tensor weight_codes = weight, weight_mask, found;
    if (trains) {
      std::tie(weight_codes, found, weight_mask) = float8_rows(weight, weight_scale, weight_format, /*masked=*/true);
    } else {
      found = *weight_scale;
      weight_mask = at::empty({0}, weight.options());
    }
    at::Tensor output =
        float8_multiply(codes, scale, input_format, weight_codes, found, weight_format, bias, input.scalar_type()).view_symint(sizes);
    ctx->save_for_backward({codes, scale, mask, weight_codes, found, weight_mask});
    ctx->saved_data["formats"] = std::vector<std::string>{std::string(input_format), std::string(weight_format), std::string(backward)};
    ctx->saved_data["types"] = std::vector<int64_t>{static_cast<int64_t>(input.scalar_type()), static_cast<int64_t>(weight.scalar_type()),
                                                    static_cast<int64_t>(bias.has_value() ? bias->scalar_type() : at::kFloat)};
    ctx->saved_data["wanted"] = std::vector<int64_t>{input.requires_grad(), trains && weight.requires_grad(),
                                                     bias.has_value() && bias->requires_grad()};
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "linear_float8: double backward (create_graph=True) is not supported: the codes have no derivative");
    variable_list out(8);
    if (!grads[0].defined()) return out;
    const auto s = ctx->get_saved_variables();
    const auto names = ctx->saved_data["formats"].toListRef();
    const auto types = ctx->saved_data["types"].toIntVector(), wanted = ctx->saved_data["wanted"].toIntVector();
    const auto type = [&](int i) { return static_cast<at::ScalarType>(types[i]); };
    const auto [grad_input, grad_weight, grad_bias] = linear_float8_backward(
        grads[0], s[0], s[1], s[2], names[0].toStringView(), s[3], s[4], s[5], names[1].toStringView(), type(0),
        wanted[1] != 0 ? type(1) : at::kFloat, names[2].toStringView(), {wanted[0] != 0, wanted[1] != 0, wanted[2] != 0});
    if (wanted[0] != 0) out[0] = grad_input;
    if (wanted[1] != 0) out[1] = grad_weight;
    if (wanted[2] != 0) out[3] = grad_bias.to(type(2));
    return out;
  }
};

bool wants(const at::Tensor& t) { return at::GradMode::is_enabled() && t.requires_grad(); }
bool wants(const OptionalTensor& t) { return t.has_value() && wants(*t); }

at::Tensor linear_float8_autograd(const at::Tensor& input, const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                                  const OptionalTensor& bias, const OptionalTensor& input_scale, std::string_view input_format,
                                  std::string_view weight_format) {
  if (wants(input) || wants(bias)) {
    TORCH_CHECK_TYPE(weight_codes.scalar_type() == at::kByte, "linear_float8: weight_codes must be uint8, got ",
                     weight_codes.scalar_type());
    return LinearFloat8::apply(input, weight_codes, weight_scale, bias, input_scale, input_format, weight_format, "auto");
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return linear_float8(input, weight_codes, weight_scale, bias, input_scale, input_format, weight_format);
}

at::Tensor qat_linear_float8_autograd(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                      const OptionalTensor& input_scale, const OptionalTensor& weight_scale,
                                      std::string_view input_format, std::string_view weight_format, std::string_view backward) {
  parse_backward("qat_linear_float8", backward);
  if (wants(input) || wants(weight) || wants(bias)) {
    return LinearFloat8::apply(input, weight, weight_scale, bias, input_scale, input_format, weight_format, backward);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return qat_linear_float8(input, weight, bias, input_scale, weight_scale, input_format, weight_format, backward);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("linear_float8", &linear_float8_autograd);
  m.impl("qat_linear_float8", &qat_linear_float8_autograd);
  m.impl("_float8_rows", torch::autograd::autogradNotImplementedFallback());
  m.impl("_float8_multiply", torch::autograd::autogradNotImplementedFallback());
  m.impl("_linear_float8_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
