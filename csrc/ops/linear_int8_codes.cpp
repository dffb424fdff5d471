// linear_int8_codes: schema and C++ entry.
#include "ops/call.h"
#include "torchqat/linear_int8_codes.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "linear_int8_codes(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor? bias, Tensor input_scale, "
      "Tensor input_zero_point, int quant_min, int quant_max, bool relu=False, Tensor? output_scale=None, "
      "Tensor? output_zero_point=None, int output_quant_min=0, int output_quant_max=255) -> Tensor");
}

at::Tensor linear_int8_codes(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                             const std::optional<at::Tensor>& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                             int64_t quant_min, int64_t quant_max, bool relu, const std::optional<at::Tensor>& output_scale,
                             const std::optional<at::Tensor>& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  static const auto op = find_op<decltype(linear_int8_codes)>("torchqat::linear_int8_codes");
  return op.call(input, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max, relu, output_scale,
                 output_zero_point, output_quant_min, output_quant_max);
}

}  // namespace torchqat
