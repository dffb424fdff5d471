// qat_conv_int8: schemas, checks and C++ entry.
#include "ops/qat_conv_int8.h"

#include "torchqat/qat_conv_int8.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "qat_conv_int8(Tensor input, Tensor weight, Tensor? bias, Tensor input_scale, Tensor input_zero_point, "
      "Tensor weight_scale, int input_quant_min, int input_quant_max, int weight_quant_min, int weight_quant_max, "
      "int[] stride, int[] padding, int[] dilation, int groups, bool input_learned=False, bool weight_learned=False, "
      "float input_grad_scale=1.0, float weight_grad_scale=1.0, str backward=\"auto\") -> Tensor");
  m.def(
      "_qat_conv_int8_forward(Tensor input, Tensor weight, Tensor? bias, Tensor input_scale, Tensor input_zero_point, "
      "Tensor weight_scale, int input_quant_min, int input_quant_max, int weight_quant_min, int weight_quant_max, "
      "int[] stride, int[] padding, int[] dilation, int groups, bool learned) -> "
      "(Tensor output, Tensor codes, Tensor mask, Tensor weight_codes, Tensor weight_mask)");
  m.def(
      "_qat_conv_int8_backward(Tensor grad_output, Tensor codes, Tensor? mask, Tensor weight_codes, Tensor? weight_mask, "
      "Tensor input_scale, Tensor input_zero_point, Tensor weight_scale, int input_quant_min, int input_quant_max, "
      "int[] stride, int[] padding, int[] dilation, int groups, bool[3] output_mask, str backward) -> "
      "(Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

void check_qat_conv(const char* op, const at::Tensor& input, const at::Tensor& weight, const at::Tensor& weight_scale,
                    int64_t low, int64_t high, int64_t groups) {
  TORCH_CHECK_TYPE(at::isFloatingType(weight.scalar_type()), op, ": weight must be floating, got ", weight.scalar_type());
  TORCH_CHECK_VALUE(weight.dim() >= 3 && weight.dim() <= 5, op,
                    ": weight must be [out, in / groups, *kernel] with 1 to 3 kernel dimensions, got shape ", weight.sym_sizes());
  TORCH_CHECK_VALUE(input.dim() == weight.dim(), op, ": input must have ", weight.dim(), " dimensions like weight, got shape ",
                    input.sym_sizes());
  TORCH_CHECK_VALUE(groups >= 1, op, ": groups must be at least 1, got ", groups);
  TORCH_CHECK_VALUE(weight.sym_size(1) * groups == input.sym_size(1), op, ": weight must have ", input.sym_size(1), " / ", groups,
                    " input channels, got shape ", weight.sym_sizes());
  TORCH_CHECK_VALUE(weight.sym_size(0) % groups == 0, op, ": groups must divide the ", weight.sym_size(0),
                    " output channels, got ", groups);
  TORCH_CHECK_VALUE(weight_scale.sym_numel() == 1 || (weight_scale.dim() >= 1 && weight_scale.sym_numel() == weight.sym_size(0)), op,
                    ": weight_scale must have 1 element or one for each of the ", weight.sym_size(0),
                    " output channels, got shape ", weight_scale.sym_sizes());
  TORCH_CHECK_VALUE(-128 <= low && low < high && high <= 127, op,
                    ": weight_quant_min and weight_quant_max must be an increasing range within [-128, 127], got [", low, ", ",
                    high, "]");
}

void check_backward_mode(const char* op, std::string_view backward) {
  TORCH_CHECK_VALUE(backward == "float32" || backward == "bfloat16" || backward == "int16" || backward == "auto", op,
                    ": backward must be 'float32', 'bfloat16', 'int16' or 'auto', got '", backward, "'");
}

QatConvResult qat_conv_forward(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                               const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                               const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                               int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride,
                               at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool learned) {
  using Signature = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, const at::Tensor&, const at::Tensor&,
      const at::Tensor&, int64_t, int64_t, int64_t, int64_t, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, bool);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("torchqat::_qat_conv_int8_forward", "").typed<Signature>();
  auto [y, codes, mask, weight_codes, weight_mask] =
      op.call(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min, input_quant_max,
              weight_quant_min, weight_quant_max, stride, padding, dilation, groups, learned);
  return {y, codes, mask, weight_codes, weight_mask};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> qat_conv_backward(
    const at::Tensor& grad_output, const at::Tensor& codes, const std::optional<at::Tensor>& mask,
    const at::Tensor& weight_codes, const std::optional<at::Tensor>& weight_mask, const at::Tensor& input_scale,
    const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, std::array<bool, 3> output_mask,
    std::string_view backward) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::_qat_conv_int8_backward", "")
                             .typed<decltype(qat_conv_backward)>();
  return op.call(grad_output, codes, mask, weight_codes, weight_mask, input_scale, input_zero_point, weight_scale,
                 input_quant_min, input_quant_max, stride, padding, dilation, groups, output_mask, backward);
}

at::Tensor qat_conv_int8(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                         int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                         int64_t weight_quant_max, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                         int64_t groups, bool input_learned, bool weight_learned, double input_grad_scale,
                         double weight_grad_scale, std::string_view backward) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("torchqat::qat_conv_int8", "").typed<decltype(qat_conv_int8)>();
  return op.call(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min, input_quant_max,
                 weight_quant_min, weight_quant_max, stride, padding, dilation, groups, input_learned, weight_learned,
                 input_grad_scale, weight_grad_scale, backward);
}

}  // namespace torchqat
