// Autocast: the float32 result, rounded once to the autocast type.
#include "autocast/rounded.h"
#include "torchqat/conv_int8.h"

namespace torchqat {
namespace {

template <c10::DeviceType device>
at::Tensor conv_int8_autocast(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                              const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                              const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                              at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                              at::IntArrayRef dilation, int64_t groups) {
  const c10::impl::ExcludeDispatchKeyGuard below(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const at::Tensor y = conv_int8(input.is_floating_point() ? input.to(at::kFloat) : input, packed_weight, weight_scale, bias, input_scale, input_zero_point,
                                 quant_min, quant_max, kernel_size, stride, padding, dilation, groups);
  return rounded<device>(y);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, AutocastCPU, m) { m.impl("conv_int8", &conv_int8_autocast<c10::DeviceType::CPU>); }
TORCH_LIBRARY_IMPL(torchqat, AutocastCUDA, m) { m.impl("conv_int8", &conv_int8_autocast<c10::DeviceType::CUDA>); }

}  // namespace torchqat
