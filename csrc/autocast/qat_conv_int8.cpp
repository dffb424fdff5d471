// Autocast of the training convolution: the float32 result, rounded once to the autocast type.
#include "autocast/rounded.h"
#include "torchqat/qat_conv_int8.h"

namespace torchqat {
namespace {

template <c10::DeviceType device>
at::Tensor qat_conv_int8_autocast(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                  const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                  const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                                  int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride,
                                  at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool input_learned,
                                  bool weight_learned, double input_grad_scale, double weight_grad_scale,
                                  std::string_view backward) {
  const c10::impl::ExcludeDispatchKeyGuard below(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const at::Tensor y = qat_conv_int8(input.to(at::kFloat), weight, bias, input_scale, input_zero_point, weight_scale,
                                     input_quant_min, input_quant_max, weight_quant_min, weight_quant_max, stride, padding,
                                     dilation, groups, input_learned, weight_learned, input_grad_scale, weight_grad_scale,
                                     backward);
  return rounded<device>(y);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, AutocastCPU, m) { m.impl("qat_conv_int8", &qat_conv_int8_autocast<c10::DeviceType::CPU>); }
TORCH_LIBRARY_IMPL(torchqat, AutocastCUDA, m) { m.impl("qat_conv_int8", &qat_conv_int8_autocast<c10::DeviceType::CUDA>); }

}  // namespace torchqat
