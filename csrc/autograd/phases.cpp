// The gradient of putting phases side by side: taking them apart again. No arithmetic.
#include "ops/phases.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct InterleavePhases : torch::autograd::Function<InterleavePhases> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, at::IntArrayRef stride, at::IntArrayRef padding,
                          c10::SymIntArrayRef lengths) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->saved_data["stride"] = stride.vec();
    ctx->saved_data["padding"] = padding.vec();
    ctx->saved_data["sizes"] = input.sym_sizes().slice(2).vec();
    return interleave_phases(input, stride, padding, lengths);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(4);
    if (!grads[0].defined()) return result;
    const auto& saved = ctx->saved_data;
    result[0] = interleave_phases_backward(grads[0], saved.at("stride").toIntVector(), saved.at("padding").toIntVector(),
                                           saved.at("sizes").toSymIntVector());
    return result;
  }
};

at::Tensor interleave_autograd(const at::Tensor& input, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef lengths) {
  if (at::GradMode::is_enabled() && input.requires_grad()) return InterleavePhases::apply(input, stride, padding, lengths);
  at::AutoDispatchBelowADInplaceOrView below;
  return interleave_phases(input, stride, padding, lengths);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("_interleave_phases", &interleave_autograd);
  m.impl("_interleave_phases_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
