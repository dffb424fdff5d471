// Gradients of linear_block_float: those of the float product of the same values. No arithmetic here.
#include "ops/linear_block_float.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct LinearBlockFloat : torch::autograd::Function<LinearBlockFloat> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& weight, const OptionalTensor& bias,
                          std::string_view input_format, std::string_view weight_format, const OptionalTensor& unrounded,
                          std::optional<at::ScalarType> dtype) {
    at::AutoDispatchBelowADInplaceOrView below;
    at::Tensor output = linear_block_float(input, weight, bias, input_format, weight_format, unrounded, dtype);
    ctx->save_for_backward({input, weight});
    ctx->saved_data["wanted"] =
        std::vector<int64_t>{input.requires_grad(), weight.requires_grad(), bias.has_value() && bias->requires_grad()};
    if (bias.has_value()) ctx->saved_data["bias_type"] = static_cast<int64_t>(bias->scalar_type());
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "linear_block_float: double backward (create_graph=True) is not supported: its values are rounded");
    variable_list out(7);
    if (!grads[0].defined()) return out;
    const auto s = ctx->get_saved_variables();
    const auto wanted = ctx->saved_data["wanted"].toIntVector();
    const auto [grad_input, grad_weight, grad_bias] =
        linear_block_float_backward(grads[0], s[0], s[1], {wanted[0] != 0, wanted[1] != 0, wanted[2] != 0});
    if (wanted[0] != 0) out[0] = grad_input;
    if (wanted[1] != 0) out[1] = grad_weight;
    if (wanted[2] != 0) out[2] = grad_bias.to(static_cast<at::ScalarType>(ctx->saved_data["bias_type"].toInt()));
    return out;
  }
};

at::Tensor linear_block_float_autograd(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                       std::string_view input_format, std::string_view weight_format, const OptionalTensor& unrounded,
                                       std::optional<at::ScalarType> dtype) {
  const OptionalTensor constant = unrounded.has_value() ? OptionalTensor(unrounded->detach()) : std::nullopt;
  if (at::GradMode::is_enabled() && (input.requires_grad() || weight.requires_grad() || (bias.has_value() && bias->requires_grad()))) {
    return LinearBlockFloat::apply(input, weight, bias, input_format, weight_format, constant, dtype);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return linear_block_float(input, weight, bias, input_format, weight_format, constant, dtype);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("linear_block_float", &linear_block_float_autograd);
  m.impl("_linear_block_float_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
