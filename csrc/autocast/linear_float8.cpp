// Under autocast the 8-bit float layers give the same float32 result, rounded once to the autocast dtype.
#include "autocast/rounded.h"
#include "torchqat/linear_float8.h"

namespace torchqat {
namespace {

template <c10::DispatchKey key, c10::DeviceType device>
struct Autocast {
  static at::Tensor linear_float8(const at::Tensor& input, const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                                  const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& input_scale,
                                  std::string_view input_format, std::string_view weight_format) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::linear_float8(input, weight_codes, weight_scale, bias, input_scale, input_format, weight_format));
  }

  static at::Tensor qat_linear_float8(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                      const std::optional<at::Tensor>& input_scale, const std::optional<at::Tensor>& weight_scale,
                                      std::string_view input_format, std::string_view weight_format, std::string_view backward) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::qat_linear_float8(input, weight, bias, input_scale, weight_scale, input_format, weight_format, backward));
  }

  static void add(torch::Library& m) {
    m.impl("linear_float8", &linear_float8);
    m.impl("qat_linear_float8", &qat_linear_float8);
  }
};

TORCH_LIBRARY_IMPL(torchqat, AutocastCPU, m) { Autocast<c10::DispatchKey::AutocastCPU, c10::kCPU>::add(m); }
TORCH_LIBRARY_IMPL(torchqat, AutocastCUDA, m) { Autocast<c10::DispatchKey::AutocastCUDA, c10::kCUDA>::add(m); }

}  // namespace
}  // namespace torchqat
