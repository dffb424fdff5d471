// Gradients of fake_quantize_learned, fake_quantize_pact and the scales that parameters stand for. No arithmetic here: forward and backward are ops.
#include "ops/torch_headers.h"

#include "ops/learned.h"
#include "ops/learned_scale.h"
#include "torchqat/learned.h"

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

struct FakeQuantizePact : torch::autograd::Function<FakeQuantizePact> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& scale, c10::SymIntArrayRef block_size,
                          int64_t quant_min, int64_t quant_max, double grad_scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({input, scale});
    ctx->saved_data["block_size"] = block_size;
    ctx->saved_data["quant_min"] = quant_min;
    ctx->saved_data["quant_max"] = quant_max;
    ctx->saved_data["grad_scale"] = grad_scale;
    return fake_quantize_pact_symint(input, scale, block_size, quant_min, quant_max, grad_scale);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}, {}, {}, {}, {}};
    const auto saved = ctx->get_saved_variables();
    const auto blocks = ctx->saved_data["block_size"].toSymIntVector();
    auto [dx, ds] = fake_quantize_pact_backward(grads[0], saved[0], saved[1], blocks, ctx->saved_data["quant_min"].toInt(),
                                                ctx->saved_data["quant_max"].toInt(), ctx->saved_data["grad_scale"].toDouble());
    return {dx, ds, {}, {}, {}, {}};
  }
};

struct LearnedScale : torch::autograd::Function<LearnedScale> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& log_scale, const Variable& base_scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({log_scale, base_scale});
    return learned_scale(log_scale, base_scale);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}};
    const auto saved = ctx->get_saved_variables();
    return {learned_scale_backward(grads[0], saved[0], saved[1]), {}};
  }
};

struct PowerOfTwoScale : torch::autograd::Function<PowerOfTwoScale> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& log2_scale, const Variable& base_scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Variable scale = power_of_two_scale(log2_scale, base_scale);
    ctx->save_for_backward({scale});
    return scale;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}};
    return {power_of_two_scale_backward(grads[0], ctx->get_saved_variables()[0]), {}};
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

at::Tensor pact(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size, int64_t quant_min,
                int64_t quant_max, double grad_scale) {
  if (at::GradMode::is_enabled() && (needs_gradient(input) || needs_gradient(scale))) {
    return FakeQuantizePact::apply(input, scale, block_size, quant_min, quant_max, grad_scale);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_pact_symint(input, scale, block_size, quant_min, quant_max, grad_scale);
}

template <typename Function, auto op>
at::Tensor scale_of(const at::Tensor& parameter, const at::Tensor& base_scale) {
  if (at::GradMode::is_enabled() && needs_gradient(parameter)) return Function::apply(parameter, base_scale);
  at::AutoDispatchBelowADInplaceOrView below;
  return op(parameter, base_scale);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("fake_quantize_learned", &learned);
  m.impl("fake_quantize_pact", &pact);
  m.impl("learned_scale", &scale_of<LearnedScale, &learned_scale>);
  m.impl("power_of_two_scale", &scale_of<PowerOfTwoScale, &power_of_two_scale>);
  for (const char* op : {"_fake_quantize_learned_backward", "_fake_quantize_pact_backward", "_learned_scale_backward",
                         "_power_of_two_scale_backward"}) {
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
  }
}

}  // namespace
}  // namespace torchqat
