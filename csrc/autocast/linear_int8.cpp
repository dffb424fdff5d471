// Under autocast the integer layers compute the same float32 result, rounded once to the autocast dtype: the input is not
// cast first, since that would change its codes.
#include "autocast/rounded.h"
#include "torchqat/linear_int8.h"

namespace torchqat {
namespace {

template <c10::DispatchKey key, c10::DeviceType device>
struct Autocast {
  static at::Tensor linear_int8(const at::Tensor& input, const at::Tensor& packed_weight,
                                const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                const at::Tensor& input_scale, const at::Tensor& input_zero_point, int64_t quant_min,
                                int64_t quant_max) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::linear_int8(input, packed_weight, weight_scale, bias, input_scale, input_zero_point,
                                         quant_min, quant_max));
  }

  static at::Tensor linear_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight,
                                        const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                        bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::linear_int8_dynamic(input, packed_weight, weight_scale, bias, per_token, quant_min,
                                                 quant_max, symmetric));
  }

  static at::Tensor qat_linear_int8(const at::Tensor& input, const at::Tensor& weight,
                                    const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                    const at::Tensor& input_zero_point, const std::optional<at::Tensor>& weight_scale,
                                    int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                                    int64_t weight_quant_max, bool input_learned, bool weight_learned,
                                    double input_grad_scale, double weight_grad_scale, c10::string_view backward,
                                    const std::optional<at::Tensor>& packed_weight,
                                    const std::optional<at::Tensor>& weight_mask) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::qat_linear_int8(input, weight, bias, input_scale, input_zero_point, weight_scale,
                                             input_quant_min, input_quant_max, weight_quant_min, weight_quant_max,
                                             input_learned, weight_learned, input_grad_scale, weight_grad_scale,
                                             backward, packed_weight, weight_mask));
  }

  static void add(torch::Library& m) {
    m.impl("qat_linear_int8", &qat_linear_int8);
    m.impl("linear_int8", &linear_int8);
    m.impl("linear_int8_dynamic", &linear_int8_dynamic);
  }
};

TORCH_LIBRARY_IMPL(torchqat, AutocastCPU, m) { Autocast<c10::DispatchKey::AutocastCPU, c10::kCPU>::add(m); }
TORCH_LIBRARY_IMPL(torchqat, AutocastCUDA, m) { Autocast<c10::DispatchKey::AutocastCUDA, c10::kCUDA>::add(m); }

}  // namespace
}  // namespace torchqat
