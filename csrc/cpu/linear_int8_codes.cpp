// linear_int8_codes on the CPU.
#include "cpu/layer_input.h"
#include "ops/forms.h"
#include "ops/linear_int8.h"

namespace torchqat {
namespace {

int64_t one_zero_point(const at::Tensor& zero_point) {
  return zero_point.scalar_type() == at::kInt ? *zero_point.const_data_ptr<int32_t>() : zero_point.item<int64_t>();
}

at::Tensor linear_int8_codes_cpu(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                 const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                 const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max, bool relu,
                                 const std::optional<at::Tensor>& output_scale, const std::optional<at::Tensor>& output_zero_point,
                                 int64_t output_quant_min, int64_t output_quant_max) {
  constexpr auto op = "linear_int8_codes";
  const auto sizes = check_linear_int8_codes(op, input, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max);
  const auto type = form_output_type(op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  const Int8Weight weight = read_int8_weight(op, packed_weight);
  TORCH_CHECK_VALUE(input.size(-1) == weight.k, op, ": input must have shape [..., ", weight.k, "] for this packed_weight, got ",
                    input.sizes());
  TORCH_CHECK_VALUE(weight_scale.numel() == weight.n, op, ": weight_scale must have shape [", weight.n,
                    "] for this packed_weight, got ", weight_scale.sizes());
  const FloatView w_scale = view_scale(op, "weight_scale", weight_scale);
  const LayerInput x(op, input, weight.k, input_scale, input_zero_point, quant_min, quant_max);
  CodesGrid grid;
  if (type != at::kFloat) {
    const int64_t shift = output_quant_min < 0 ? 128 : 0, zero_point = one_zero_point(*output_zero_point);
    TORCH_CHECK_VALUE(output_quant_min <= zero_point && zero_point <= output_quant_max, op, ": output_zero_point must lie within [",
                      output_quant_min, ", ", output_quant_max, "], got ", zero_point);
    grid.scale = *view_scale(op, "output_scale", *output_scale).data;
    grid.zero_point = static_cast<float>(zero_point + shift);
    grid.quant_min = static_cast<float>(output_quant_min + shift);
    grid.quant_max = static_cast<float>(output_quant_max + shift);
    grid.relu = relu;
  }
  const auto dtype = !input.is_floating_point() || type != at::kFloat ? at::kFloat : input.scalar_type();
  at::Tensor y = run_linear_int8(x, C10_AS_INTARRAYREF_SLOW(sizes), weight, w_scale.data, bias, dtype,
                                 type == at::kFloat ? nullptr : &grid);
  if (type == at::kChar) y = y.bitwise_xor_(0x80).view(at::kChar);
  if (type == at::kFloat && relu) y.clamp_min_(0);
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CPU, m) { m.impl("linear_int8_codes", &linear_int8_codes_cpu); }

}  // namespace torchqat
