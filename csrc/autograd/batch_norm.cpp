// Gradients of batch_norm_relu: what is kept is its input. The running statistics are state, which saved versions must notice.
#include "autograd/no_gradient.h"
#include "autograd/straight_through.h"
#include "ops/batch_norm.h"
#include "torchqat/batch_norm.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

bool given(const std::optional<at::Tensor>& t) { return t.has_value() && t->defined(); }

struct BatchNormRelu : torch::autograd::Function<BatchNormRelu> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Variable& input, const std::optional<Variable>& weight,
                               const std::optional<Variable>& bias, double eps, bool relu, std::optional<double> ceiling) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [output, mean, var] = batch_norm_relu(input, weight, bias, eps, relu, ceiling);
    ctx->save_for_backward({input, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), mean, var});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["relu"] = relu;
    if (ceiling.has_value()) ctx->saved_data["ceiling"] = *ceiling;
    ctx->mark_non_differentiable({mean, var});
    return {output, mean, var};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(6);
    if (!grads[0].defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const auto maybe = [](const at::Tensor& t) { return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt; };
    const bool has_weight = saved[1].defined(), has_bias = saved[2].defined();
    // Function numbers the tensor arguments; an absent one has no number.
    const bool weight_wanted = has_weight && ctx->needs_input_grad(1);
    const bool bias_wanted = has_bias && ctx->needs_input_grad(has_weight ? 2 : 1);
    const std::array<bool, 3> wanted{ctx->needs_input_grad(0), weight_wanted, bias_wanted};
    const auto found = ctx->saved_data.find("ceiling");
    const std::optional<double> ceiling = found == ctx->saved_data.end() ? std::nullopt : std::optional<double>(found->second.toDouble());
    auto [dx, dw, db] = batch_norm_relu_backward(grads[0], saved[0], maybe(saved[1]), maybe(saved[2]), saved[3], saved[4],
                                                 ctx->saved_data["eps"].toDouble(), ctx->saved_data["relu"].toBool(), wanted, ceiling);
    if (wanted[0]) result[0] = dx;
    if (wanted[1]) result[1] = dw.to(saved[1].scalar_type());
    if (wanted[2]) result[2] = db.to(saved[2].scalar_type());
    return result;
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_relu_autograd(const at::Tensor& input,
                                                                        const std::optional<at::Tensor>& weight,
                                                                        const std::optional<at::Tensor>& bias, double eps,
                                                                        bool relu, std::optional<double> ceiling) {
  if (needs_gradient(input) || (given(weight) && needs_gradient(*weight)) || (given(bias) && needs_gradient(*bias))) {
    auto r = BatchNormRelu::apply(input, weight, bias, eps, relu, ceiling);
    return {r[0], r[1], r[2]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return batch_norm_relu(input, weight, bias, eps, relu, ceiling);
}

at::Tensor update_inplace(at::Tensor& running_mean, at::Tensor& running_var, const at::Tensor& mean, const at::Tensor& var,
                           c10::SymInt count, double momentum) {
  at::Tensor unbiased;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    unbiased = batch_norm_update_symint(running_mean, running_var, mean, var, std::move(count), momentum);
  }
  for (const auto& state : {running_mean, running_var}) torch::autograd::impl::bump_version(state);
  return unbiased;
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("batch_norm_relu", &batch_norm_relu_autograd);
  m.impl("_batch_norm_relu_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("batch_norm_update_", no_gradient());
}
TORCH_LIBRARY_IMPL(torchqat, ADInplaceOrView, m) { m.impl("batch_norm_update_", &update_inplace); }

}  // namespace
}  // namespace torchqat
