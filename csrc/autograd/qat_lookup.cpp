// The gradient of element-wise functions in training: the function's slope at the code, nothing beyond the grid. Saved: a byte and a
// bit for each element, and the table of slopes.
#include "ops/torch_headers.h"

#include "autograd/straight_through.h"
#include "ops/qat_lookup.h"
#include "torchqat/forms.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct QatLookup : torch::autograd::Function<QatLookup> {
  static constexpr bool is_traceable = true;
  static constexpr int kArguments = 7;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& scale, const Variable& zero_point,
                          int64_t quant_min, int64_t quant_max, const Variable& table, const Variable& slope) {
    at::AutoDispatchBelowADInplaceOrView below;
    check_slope(slope, quant_min, quant_max);
    auto [output, index, mask] = qat_lookup_int8_forward(input, scale, zero_point, quant_min, quant_max, table);
    ctx->save_for_backward({index, mask, slope});
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "qat_lookup_int8: double backward (create_graph=True) is not supported: the codes have no derivative");
    if (!grads[0].defined()) return variable_list(kArguments);
    const auto saved = ctx->get_saved_variables();
    variable_list results(kArguments);
    results[0] = qat_lookup_int8_backward(grads[0], saved[0], saved[1], saved[2]);
    return results;
  }
};

at::Tensor qat_lookup_autograd(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                               int64_t quant_max, const at::Tensor& table, const at::Tensor& slope) {
  if (needs_gradient(input)) return QatLookup::apply(input, scale, zero_point, quant_min, quant_max, table, slope);
  at::AutoDispatchBelowADInplaceOrView below;
  return qat_lookup_int8(input, scale, zero_point, quant_min, quant_max, table, slope);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("qat_lookup_int8", &qat_lookup_autograd);
  m.impl("_qat_lookup_int8_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("_qat_lookup_int8_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
