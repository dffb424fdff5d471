// Gradients of fake_quantize_learned. No arithmetic here: forward and backward are ops.
#include "ops/torch_headers.h"

#include "ops/learned.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct FakeQuantizeLearned : torch::autograd::Function<FakeQuantizeLearned> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& scale,
                          const std::optional<Variable>& zero_point, c10::SymIntArrayRef block_size, int64_t quant_min,
                          int64_t quant_max, double grad_scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({input, scale, zero_point.value_or(Variable())});
    ctx->saved_data["block_size"] = block_size;
    ctx->saved_data["quant_min"] = quant_min;
    ctx->saved_data["quant_max"] = quant_max;
    ctx->saved_data["grad_scale"] = grad_scale;
    return fake_quantize_learned_symint(input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}, {}, {}, {}, {}, {}};
    const auto saved = ctx->get_saved_variables();
    const auto zero_point = saved[2].defined() ? std::optional<at::Tensor>(saved[2]) : std::nullopt;
    const auto blocks = ctx->saved_data["block_size"].toSymIntVector();
    auto [dx, ds, dz] = fake_quantize_learned_backward(grads[0], saved[0], saved[1], zero_point, blocks,
                                                       ctx->saved_data["quant_min"].toInt(), ctx->saved_data["quant_max"].toInt(),
                                                       ctx->saved_data["grad_scale"].toDouble());
    return {dx, ds, learns_zero_point(zero_point) ? dz : Variable(), {}, {}, {}, {}};
  }
};

bool needs_gradient(const at::Tensor& tensor) { return tensor.requires_grad(); }

at::Tensor learned(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                   c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, double grad_scale) {
  const bool any = needs_gradient(input) || needs_gradient(scale) || (zero_point.has_value() && needs_gradient(*zero_point));
  if (at::GradMode::is_enabled() && any) {
    return FakeQuantizeLearned::apply(input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_learned_symint(input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("fake_quantize_learned", &learned);
  m.impl("_fake_quantize_learned_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
