// Shape of linear_int8_codes.
#include "ops/forms.h"
#include "ops/linear_int8.h"

namespace torchqat {
namespace {

at::Tensor linear_int8_codes_meta(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                 const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                 const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max, bool,
                                 const std::optional<at::Tensor>& output_scale, const std::optional<at::Tensor>& output_zero_point,
                                 int64_t output_quant_min, int64_t output_quant_max) {
  constexpr auto op = "linear_int8_codes";
  const auto sizes = check_linear_int8_codes(op, input, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max);
  const auto type = form_output_type(op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  const bool from_floats = input.is_floating_point() && type == at::kFloat;
  return at::empty_symint(sizes, input.options().dtype(from_floats ? input.scalar_type() : type));
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, Meta, m) { m.impl("linear_int8_codes", &linear_int8_codes_meta); }

}  // namespace torchqat
