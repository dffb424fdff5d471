// The Autograd kernels of converted models' ops. Integer weights have nothing to learn and rounded inputs no gradient, so a
// backward through them is an error that says what to train instead; results that are codes are constants.
#include "autograd/no_gradient.h"

namespace torchqat {
namespace {

// The results are made below autograd and come by pointer: a tensor that is an argument would be taken for a returned input.
struct Deployed : torch::autograd::Function<Deployed> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, at::TensorList,
                                                const torch::autograd::variable_list* results, const std::string& op) {
    ctx->saved_data["op"] = op;
    return *results;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, ctx->saved_data["op"].toStringRef(), ": the derivative is not implemented, as this operator "
                                "belongs to deployed models: their integers do not train. Run backward through the model of "
                                "torchqat.prepare_qat and convert that afterwards, or call the converted model under torch.no_grad()");
  }
};

void run_deployed(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  torch::autograd::variable_list differentiable;
  if (at::GradMode::is_enabled()) {
    for (const c10::IValue& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
      if (argument.isTensor() && argument.toTensor().requires_grad()) differentiable.push_back(argument.toTensor());
    }
  }
  run_below_autograd(op, keys, stack);
  if (differentiable.empty()) return;
  const std::string& name = op.operator_name().name;
  const torch::autograd::variable_list results{torch::jit::pop(*stack).toTensor()};
  torch::jit::push(*stack, Deployed::apply(at::TensorList(differentiable), &results, name.substr(name.find("::") + 2))[0]);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  for (const char* name : {"linear_int8", "linear_int8_dynamic", "linear_grouped_int8", "linear_grouped_int8_dynamic",
                           "linear_weight_only", "conv_int8", "add_int8", "avg_pool_int8", "lookup_int8"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_deployed>());
  }
  for (const char* name : {"linear_int8_codes", "conv_int8_codes", "max_pool_codes"}) m.impl(name, no_gradient());
}

}  // namespace
}  // namespace torchqat
