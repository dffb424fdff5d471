// Under autocast these layers compute the same float32 result, rounded once to the autocast dtype: the input is not cast
// first, since that would change its codes.
#include "autocast/rounded.h"
#include "torchqat/linear_grouped.h"

namespace torchqat {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

template <c10::DispatchKey key, c10::DeviceType device>
struct Autocast {
  static at::Tensor linear_grouped_int8(const at::Tensor& input, const at::Tensor& packed_weight,
                                        const at::Tensor& weight_scale, const OptionalTensor& bias,
                                        const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                        int64_t quant_min, int64_t quant_max) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::linear_grouped_int8(input, packed_weight, weight_scale, bias, input_scale,
                                                 input_zero_point, quant_min, quant_max));
  }

  static at::Tensor linear_grouped_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight,
                                                const at::Tensor& weight_scale, const OptionalTensor& bias,
                                                bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::linear_grouped_int8_dynamic(input, packed_weight, weight_scale, bias, per_token, quant_min,
                                                         quant_max, symmetric));
  }

  static at::Tensor linear_weight_only(const at::Tensor& input, const at::Tensor& packed_weight,
                                       const at::Tensor& weight_scale, const OptionalTensor& weight_zero_point,
                                       const OptionalTensor& bias) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::linear_weight_only(input, packed_weight, weight_scale, weight_zero_point, bias));
  }

  static at::Tensor qat_linear_grouped(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                       const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                       const at::Tensor& weight_scale, int64_t group_size, int64_t input_quant_min,
                                       int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                                       bool input_learned, bool weight_learned, double input_grad_scale,
                                       double weight_grad_scale, c10::string_view backward) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded<device>(torchqat::qat_linear_grouped(input, weight, bias, input_scale, input_zero_point, weight_scale,
                                                group_size, input_quant_min, input_quant_max, weight_quant_min,
                                                weight_quant_max, input_learned, weight_learned, input_grad_scale,
                                                weight_grad_scale, backward));
  }

  static void add(torch::Library& m) {
    m.impl("qat_linear_grouped", &qat_linear_grouped);
    m.impl("linear_grouped_int8", &linear_grouped_int8);
    m.impl("linear_grouped_int8_dynamic", &linear_grouped_int8_dynamic);
    m.impl("linear_weight_only", &linear_weight_only);
  }
};

TORCH_LIBRARY_IMPL(torchqat, AutocastCPU, m) { Autocast<c10::DispatchKey::AutocastCPU, c10::kCPU>::add(m); }
TORCH_LIBRARY_IMPL(torchqat, AutocastCUDA, m) { Autocast<c10::DispatchKey::AutocastCUDA, c10::kCUDA>::add(m); }

}  // namespace
}  // namespace torchqat
