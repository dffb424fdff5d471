// The training layer with what comes before it in one call: the input's statistics, or its dynamic scale. Composed of the ops
// themselves, so that every transform sees those; one call, because on small layers a call from Python costs more than the
// product.
#include "autograd/qat_linear_int8.h"
#include "ops/call.h"
#include "ops/qparams.h"
#include "ops/torch_headers.h"
#include "torchqat/linear_int8.h"
#include "torchqat/qparams.h"

#include <ATen/autocast_mode.h>

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "qat_linear_int8_observed(Tensor input, Tensor weight, Tensor? bias, Tensor(a!) min_val, Tensor(b!) max_val, "
      "Tensor(c!) nonfinite_count, float averaging_constant, int input_quant_min, int input_quant_max, "
      "bool input_symmetric, int weight_quant_min, int weight_quant_max, str backward=\"auto\") -> Tensor");
}

at::Tensor qat_linear_int8_observed(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                    at::Tensor& min_val, at::Tensor& max_val, at::Tensor& nonfinite_count,
                                    double averaging_constant, int64_t input_quant_min, int64_t input_quant_max,
                                    bool input_symmetric, int64_t weight_quant_min, int64_t weight_quant_max,
                                    c10::string_view backward) {
  static const auto op = find_op<decltype(qat_linear_int8_observed)>("torchqat::qat_linear_int8_observed");
  return op.call(input, weight, bias, min_val, max_val, nonfinite_count, averaging_constant, input_quant_min, input_quant_max,
                 input_symmetric, weight_quant_min, weight_quant_max, backward);
}

namespace {

// Whether single ops are nobody's business: no mode, transform, tracer or autocast is in force, the tensors are ordinary ones.
bool nobody_watches(std::initializer_list<const at::Tensor*> tensors) {
  using Key = c10::DispatchKey;
  constexpr c10::DispatchKeySet ordinary({Key::CPU, Key::AutogradCPU, Key::ADInplaceOrView, Key::AutocastCPU});
  // Bit by bit: the sets' own difference leaves the backends' bits alone.
  const auto beyond = [](c10::DispatchKeySet keys, c10::DispatchKeySet known) {
    return (keys.raw_repr() & ~known.raw_repr()) != 0;
  };
  if (beyond(c10::impl::tls_local_dispatch_key_set().included_, c10::default_included_set)) return false;
  if (at::autocast::is_autocast_enabled(at::kCPU)) return false;
  for (const auto* t : tensors) {
    if (beyond(t->key_set(), ordinary)) return false;
  }
  return true;
}

void bump_versions(std::initializer_list<const at::Tensor*> state) {
  for (const auto* t : state) {
    if (!t->is_inference()) torch::autograd::impl::bump_version(*t);
  }
}

at::Tensor observed(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                    at::Tensor& min_val, at::Tensor& max_val, at::Tensor& nonfinite_count, double averaging_constant,
                    int64_t input_quant_min, int64_t input_quant_max, bool input_symmetric, int64_t weight_quant_min,
                    int64_t weight_quant_max, c10::string_view backward) {
  if (nobody_watches({&input, &weight, &min_val, &max_val, &nonfinite_count}) &&
      (!bias.has_value() || nobody_watches({&*bias}))) {
    const cpu::ObservedArguments arguments{input,           weight,           bias,           min_val,
                                           max_val,         nonfinite_count,  averaging_constant,
                                           {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max},
                                           input_symmetric};
    const at::Tensor output =
        qat_linear_int8_observed_on_cpu(arguments, parse_backward("qat_linear_int8", backward));
    bump_versions({&min_val, &max_val, &nonfinite_count});
    return output;
  }
  std::tuple<at::Tensor, at::Tensor> qparams;
  {
    // What the ops' own kernels for autograd would do, less two rounds through the dispatcher.
    at::AutoDispatchBelowADInplaceOrView below;
    qparams = observe_minmax_symint(input, min_val, max_val, nonfinite_count, {}, averaging_constant, input_quant_min,
                                    input_quant_max, input_symmetric);
  }
  bump_versions({&min_val, &max_val, &nonfinite_count});
  return qat_linear_int8(input, weight, bias, std::get<0>(qparams), std::get<1>(qparams), std::nullopt, input_quant_min,
                         input_quant_max, weight_quant_min, weight_quant_max, false, false, 1.0, 1.0, backward);
}

TORCH_LIBRARY_IMPL(torchqat, CompositeImplicitAutograd, m) { m.impl("qat_linear_int8_observed", &observed); }

}  // namespace
}  // namespace torchqat
