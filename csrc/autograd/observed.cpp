// Straight-through gradient of fake_quantize_observed; merge_range_ changes its state, which saved versions must notice.
#include "ops/torch_headers.h"

#include "autograd/no_gradient.h"
#include "autograd/straight_through.h"
#include "ops/observed.h"
#include "torchqat/observed.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct FakeQuantizeObserved : torch::autograd::Function<FakeQuantizeObserved> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Variable& input, const Variable& scale,
                               const std::optional<Variable>& zero_point, c10::SymIntArrayRef block_size, int64_t quant_min,
                               int64_t quant_max) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [output, lo, hi, nonfinite, mask] =
        fake_quantize_observed_forward(input, scale, zero_point, block_size, quant_min, quant_max);
    save_mask(ctx, output, mask);
    ctx->mark_non_differentiable({lo, hi, nonfinite});
    return {output, lo, hi, nonfinite};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}, {}, {}, {}, {}};
    return {straight_through(ctx, grads[0]), {}, {}, {}, {}, {}};
  }
};

Observed observed(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                  c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  if (needs_gradient(input)) {
    const auto r = FakeQuantizeObserved::apply(input, scale, zero_point, block_size, quant_min, quant_max);
    return {r[0], r[1], r[2], r[3]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_observed_symint(input, scale, zero_point, block_size, quant_min, quant_max);
}

std::tuple<at::Tensor, at::Tensor> merge_range_inplace(at::Tensor& min_val, at::Tensor& max_val, at::Tensor& nonfinite_count,
                                                       const at::Tensor& new_min, const at::Tensor& new_max,
                                                       const at::Tensor& new_nonfinite, double averaging_constant,
                                                       int64_t quant_min, int64_t quant_max, bool symmetric) {
  std::tuple<at::Tensor, at::Tensor> qparams;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    qparams = merge_range_(min_val, max_val, nonfinite_count, new_min, new_max, new_nonfinite, averaging_constant, quant_min,
                           quant_max, symmetric);
  }
  for (const auto& state : {min_val, max_val, nonfinite_count}) torch::autograd::impl::bump_version(state);
  return qparams;
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("fake_quantize_observed", &observed);
  m.impl("_fake_quantize_observed_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("merge_range_", no_gradient());
}
TORCH_LIBRARY_IMPL(torchqat, ADInplaceOrView, m) { m.impl("merge_range_", &merge_range_inplace); }

}  // namespace
}  // namespace torchqat
