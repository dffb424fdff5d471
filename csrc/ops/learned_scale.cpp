// Schemas, checks, C++ entry points and kernels of learned_scale and power_of_two_scale. They work on tensors as small as a
// layer's scales, so one kernel made of ATen's serves every device.
#include "ops/torch_headers.h"

#include <cmath>

#include "ops/blocks.h"
#include "ops/call.h"
#include "ops/learned_scale.h"
#include "torchqat/learned.h"

namespace torchqat {
namespace {

// Below this start a scale's gradient stops growing: 1 / base_scale would overflow.
constexpr double smallest_base = 0x1p-40;

void check_scale(const char* op, const char* name, const at::Tensor& parameter, const at::Tensor& base_scale) {
  check_floating(op, name, parameter);
  check_floating(op, "base_scale", base_scale);
  TORCH_CHECK_VALUE(parameter.sym_sizes() == base_scale.sym_sizes(), op, ": ", name, " must have the shape of base_scale ",
                    base_scale.sym_sizes(), ", got ", parameter.sym_sizes());
  TORCH_CHECK_TYPE(parameter.scalar_type() == base_scale.scalar_type(), op, ": ", name, " must have the dtype of base_scale ",
                   dtype_name(base_scale.scalar_type()), ", got ", dtype_name(parameter.scalar_type()));
  TORCH_CHECK_VALUE(parameter.device() == base_scale.device(), op, ": ", name, " must be on the device of base_scale ",
                    base_scale.device(), ", got ", parameter.device());
}

// exp below 0, its tangent above: always positive, and a large step up grows the scale as far as the step goes and no further,
// where exp would overflow.
at::Tensor growth(const at::Tensor& log_scale) { return at::where(log_scale < 0, log_scale.exp(), log_scale + 1); }

at::Tensor growth_slope(const at::Tensor& log_scale) { return log_scale.clamp_max(0).exp(); }

at::Tensor learned_scale_kernel(const at::Tensor& log_scale, const at::Tensor& base_scale) {
  check_scale("learned_scale", "log_scale", log_scale, base_scale);
  return base_scale * growth(log_scale);
}

at::Tensor learned_scale_backward_kernel(const at::Tensor& grad, const at::Tensor& log_scale, const at::Tensor& base_scale) {
  check_scale("_learned_scale_backward", "log_scale", log_scale, base_scale);
  return grad * growth_slope(log_scale) / base_scale.clamp_min(smallest_base);
}

at::Tensor power_of_two_scale_kernel(const at::Tensor& log2_scale, const at::Tensor& base_scale) {
  check_scale("power_of_two_scale", "log2_scale", log2_scale, base_scale);
  // In double, where the logarithm of a power of two is exact.
  const auto exponent = (base_scale.to(at::kDouble).log2() + log2_scale.to(at::kDouble)).ceil().clamp(-126, 127);
  return exponent.exp2().to(base_scale.scalar_type());
}

at::Tensor power_of_two_scale_backward_kernel(const at::Tensor& grad, const at::Tensor& scale) {
  return grad * scale * std::log(2.0);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("learned_scale(Tensor log_scale, Tensor base_scale) -> Tensor");
  m.def("_learned_scale_backward(Tensor grad, Tensor log_scale, Tensor base_scale) -> Tensor");
  m.def("power_of_two_scale(Tensor log2_scale, Tensor base_scale) -> Tensor");
  m.def("_power_of_two_scale_backward(Tensor grad, Tensor scale) -> Tensor");
}

TORCH_LIBRARY_IMPL(torchqat, CompositeExplicitAutograd, m) {
  m.impl("learned_scale", &learned_scale_kernel);
  m.impl("_learned_scale_backward", &learned_scale_backward_kernel);
  m.impl("power_of_two_scale", &power_of_two_scale_kernel);
  m.impl("_power_of_two_scale_backward", &power_of_two_scale_backward_kernel);
}

at::Tensor learned_scale(const at::Tensor& log_scale, const at::Tensor& base_scale) {
  static const auto op = find_op<decltype(learned_scale)>("torchqat::learned_scale");
  return op.call(log_scale, base_scale);
}

at::Tensor power_of_two_scale(const at::Tensor& log2_scale, const at::Tensor& base_scale) {
  static const auto op = find_op<decltype(power_of_two_scale)>("torchqat::power_of_two_scale");
  return op.call(log2_scale, base_scale);
}

at::Tensor learned_scale_backward(const at::Tensor& grad, const at::Tensor& log_scale, const at::Tensor& base_scale) {
  static const auto op = find_op<decltype(learned_scale_backward)>("torchqat::_learned_scale_backward");
  return op.call(grad, log_scale, base_scale);
}

at::Tensor power_of_two_scale_backward(const at::Tensor& grad, const at::Tensor& scale) {
  static const auto op = find_op<decltype(power_of_two_scale_backward)>("torchqat::_power_of_two_scale_backward");
  return op.call(grad, scale);
}

}  // namespace torchqat
