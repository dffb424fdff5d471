// Scales are constants to autograd; binary levels pass the gradient straight through, everywhere.
#include "ops/torch_headers.h"

#include "autograd/no_gradient.h"
#include "autograd/straight_through.h"
#include "ops/low_bit.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct FakeQuantizeBinary : torch::autograd::Function<FakeQuantizeBinary> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext*, const Variable& input, const Variable& scale, c10::SymIntArrayRef block_size) {
    at::AutoDispatchBelowADInplaceOrView below;
    return fake_quantize_binary_symint(input, scale, block_size);
  }

  static variable_list backward(AutogradContext*, const variable_list& grads) { return {grads[0], {}, {}}; }
};

at::Tensor fake_quantize_binary_autograd(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size) {
  if (needs_gradient(input)) return FakeQuantizeBinary::apply(input, scale, block_size);
  at::AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_binary_symint(input, scale, block_size);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("choose_qparams_mse", no_gradient());
  m.impl("choose_scale_binary", no_gradient());
  m.impl("fake_quantize_binary", &fake_quantize_binary_autograd);
}

}  // namespace
}  // namespace torchqat
