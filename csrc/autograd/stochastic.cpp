// Straight-through gradient of fake_quantize_stochastic.
#include "ops/torch_headers.h"

#include "autograd/straight_through.h"
#include "ops/stochastic.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct FakeQuantizeStochastic : torch::autograd::Function<FakeQuantizeStochastic> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& scale,
                          const std::optional<Variable>& zero_point, c10::SymIntArrayRef block_size, int64_t quant_min,
                          int64_t quant_max, int64_t seed, int64_t offset) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [output, mask] =
        fake_quantize_stochastic_forward(input, scale, zero_point, block_size, quant_min, quant_max, seed, offset);
    save_mask(ctx, output, mask);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}, {}, {}, {}, {}, {}, {}};
    return {straight_through(ctx, grads[0]), {}, {}, {}, {}, {}, {}, {}};
  }
};

at::Tensor stochastic(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset) {
  if (needs_gradient(input)) {
    return FakeQuantizeStochastic::apply(input, scale, zero_point, block_size, quant_min, quant_max, seed, offset);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_stochastic_symint(input, scale, zero_point, block_size, quant_min, quant_max, seed, offset);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("fake_quantize_stochastic", &stochastic);
  m.impl("_fake_quantize_stochastic_forward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
