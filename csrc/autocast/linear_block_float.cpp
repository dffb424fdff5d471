// Under autocast linear_block_float's values stay as they are, so that their codes can be found, and its product has the autocast dtype.
#include "ops/torch_headers.h"

#include <ATen/autocast_mode.h>

#include "torchqat/linear_block_float.h"

namespace torchqat {
namespace {

template <c10::DispatchKey key, c10::DeviceType device>
at::Tensor linear_block_float_autocast(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                       std::string_view input_format, std::string_view weight_format,
                                       const std::optional<at::Tensor>& unrounded, std::optional<at::ScalarType> dtype) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  if (!dtype.has_value() && input.scalar_type() != at::kDouble) dtype = at::autocast::get_autocast_dtype(device);
  return linear_block_float(input, weight, bias, input_format, weight_format, unrounded, dtype);
}

TORCH_LIBRARY_IMPL(torchqat, AutocastCPU, m) {
  m.impl("linear_block_float", &linear_block_float_autocast<c10::DispatchKey::AutocastCPU, c10::kCPU>);
}
TORCH_LIBRARY_IMPL(torchqat, AutocastCUDA, m) {
  m.impl("linear_block_float", &linear_block_float_autocast<c10::DispatchKey::AutocastCUDA, c10::kCUDA>);
}

}  // namespace
}  // namespace torchqat
