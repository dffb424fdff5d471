// The gradient of dorefa_weight: nothing but the weight is kept.
#include "ops/torch_headers.h"

#include "autograd/straight_through.h"
#include "ops/dorefa.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct DorefaWeight : torch::autograd::Function<DorefaWeight> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, c10::SymIntArrayRef block_size) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({input});
    ctx->saved_data["block_size"] = block_size;
    return dorefa_weight_symint(input, block_size);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}};
    const auto blocks = ctx->saved_data["block_size"].toSymIntVector();
    return {dorefa_weight_backward(grads[0], ctx->get_saved_variables()[0], blocks), {}};
  }
};

at::Tensor dorefa(const at::Tensor& input, c10::SymIntArrayRef block_size) {
  if (needs_gradient(input)) return DorefaWeight::apply(input, block_size);
  at::AutoDispatchBelowADInplaceOrView below;
  return dorefa_weight_symint(input, block_size);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("dorefa_weight", &dorefa);
  m.impl("_dorefa_weight_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
