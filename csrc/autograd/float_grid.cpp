// Straight-through gradient of fake_quantize_float; its backward is that of fake_quantize.
#include "ops/torch_headers.h"

#include "autograd/straight_through.h"
#include "ops/float_grid.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct FakeQuantizeFloat : torch::autograd::Function<FakeQuantizeFloat> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const std::optional<Variable>& scale,
                          c10::SymIntArrayRef block_size, std::string_view format, std::string_view scale_rounding) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [output, mask] = fake_quantize_float_forward(input, scale, block_size, format, scale_rounding);
    save_mask(ctx, output, mask);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {{}, {}, {}, {}, {}};
    return {straight_through(ctx, grads[0]), {}, {}, {}, {}};
  }
};

at::Tensor fake_quantize_float_autograd(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                        c10::SymIntArrayRef block_size, std::string_view format, std::string_view scale_rounding) {
  if (needs_gradient(input)) return FakeQuantizeFloat::apply(input, scale, block_size, format, scale_rounding);
  at::AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_float_symint(input, scale, block_size, format, scale_rounding);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("fake_quantize_float", &fake_quantize_float_autograd);
  m.impl("_fake_quantize_float_forward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
