// Under autocast these layers compute the same float32 result, rounded once to the autocast dtype: the input is not cast
// first, since that would change its codes.
#include <ATen/autocast_mode.h>

#include "ops/torch_headers.h"
#include "torchqat/linear_grouped.h"

namespace torchqat {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

template <c10::DispatchKey key, c10::DeviceType device>
struct Autocast {
  static at::Tensor rounded(const at::Tensor& y) {
    return y.scalar_type() == at::kFloat ? y.to(at::autocast::get_autocast_dtype(device)) : y;
  }

  static at::Tensor linear_grouped_int8(const at::Tensor& input, const at::Tensor& packed_weight,
                                        const at::Tensor& weight_scale, const OptionalTensor& bias,
                                        const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                        int64_t quant_min, int64_t quant_max) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded(torchqat::linear_grouped_int8(input, packed_weight, weight_scale, bias, input_scale,
                                                 input_zero_point, quant_min, quant_max));
  }

  static at::Tensor linear_grouped_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight,
                                                const at::Tensor& weight_scale, const OptionalTensor& bias,
                                                bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded(torchqat::linear_grouped_int8_dynamic(input, packed_weight, weight_scale, bias, per_token, quant_min,
                                                         quant_max, symmetric));
  }

  static at::Tensor linear_weight_only(const at::Tensor& input, const at::Tensor& packed_weight,
                                       const at::Tensor& weight_scale, const OptionalTensor& weight_zero_point,
                                       const OptionalTensor& bias) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return rounded(torchqat::linear_weight_only(input, packed_weight, weight_scale, weight_zero_point, bias));
  }

  static void add(torch::Library& m) {
    m.impl("linear_grouped_int8", &linear_grouped_int8);
    m.impl("linear_grouped_int8_dynamic", &linear_grouped_int8_dynamic);
    m.impl("linear_weight_only", &linear_weight_only);
  }
};

TORCH_LIBRARY_IMPL(torchqat, AutocastCPU, m) { Autocast<c10::DispatchKey::AutocastCPU, c10::kCPU>::add(m); }
TORCH_LIBRARY_IMPL(torchqat, AutocastCUDA, m) { Autocast<c10::DispatchKey::AutocastCUDA, c10::kCUDA>::add(m); }

}  // namespace
}  // namespace torchqat
