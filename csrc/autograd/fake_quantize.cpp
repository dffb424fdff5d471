// Straight-through gradients of fake_quantize and fake_quantize_dynamic. No arithmetic here: forward and backward are ops.
#include "ops/torch_headers.h"

#include <ATen/TensorSubclassLikeUtils.h>

#include "autograd/straight_through.h"
#include "ops/fake_quantize.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct FakeQuantize : torch::autograd::Function<FakeQuantize> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& scale,
                          const std::optional<Variable>& zero_point, c10::SymIntArrayRef block_size, int64_t quant_min,
                          int64_t quant_max) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [output, mask] = fake_quantize_forward(input, scale, zero_point, block_size, quant_min, quant_max);
    save_mask(ctx, output, mask);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}, {}, {}, {}, {}};
    return {straight_through(ctx, grads[0]), {}, {}, {}, {}, {}};
  }
};

struct FakeQuantizeDynamic : torch::autograd::Function<FakeQuantizeDynamic> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, c10::SymIntArrayRef block_size, int64_t quant_min,
                          int64_t quant_max, bool symmetric) {
    at::AutoDispatchBelowADInplaceOrView below;
    // Traced tensors have no values to look at, and a device would have to be waited for: there the mask is always saved.
    if (never_clips(quant_min, quant_max, symmetric) && input.is_cpu() && !at::isTensorSubclassLike(input)) {
      auto [output, mask, nonfinite] =
          fake_quantize_dynamic_forward(input, block_size, quant_min, quant_max, symmetric, /*save_mask=*/false);
      if (*nonfinite.const_data_ptr<int64_t>() == 0) return output;
    }
    auto [output, mask, nonfinite] =
        fake_quantize_dynamic_forward(input, block_size, quant_min, quant_max, symmetric, /*save_mask=*/true);
    save_mask(ctx, output, mask);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}, {}, {}, {}};
    const bool passes_everywhere = ctx->get_saved_variables().empty();
    return {passes_everywhere ? grads[0] : straight_through(ctx, grads[0]), {}, {}, {}, {}};
  }
};

at::Tensor fake_quantize_autograd(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                  c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  if (needs_gradient(input)) return FakeQuantize::apply(input, scale, zero_point, block_size, quant_min, quant_max);
  at::AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_symint(input, scale, zero_point, block_size, quant_min, quant_max);
}

at::Tensor fake_quantize_dynamic_autograd(const at::Tensor& input, c10::SymIntArrayRef block_size, int64_t quant_min,
                                          int64_t quant_max, bool symmetric) {
  if (needs_gradient(input)) return FakeQuantizeDynamic::apply(input, block_size, quant_min, quant_max, symmetric);
  at::AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_dynamic_symint(input, block_size, quant_min, quant_max, symmetric);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("fake_quantize", &fake_quantize_autograd);
  m.impl("fake_quantize.out", torch::autograd::autogradNotImplementedFallback());
  m.impl("fake_quantize_dynamic", &fake_quantize_dynamic_autograd);
  m.impl("_fake_quantize_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("_fake_quantize_dynamic_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("_fake_quantize_backward", torch::autograd::autogradNotImplementedFallback());
}
TORCH_LIBRARY_IMPL(torchqat, ADInplaceOrView, m) {
  m.impl("fake_quantize.out", torch::autograd::autogradNotImplementedInplaceOrViewFallback());
}

}  // namespace
}  // namespace torchqat
