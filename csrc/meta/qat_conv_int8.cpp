// Shapes of the training convolution.
#include "ops/qat_conv_int8.h"

namespace torchqat {
namespace {

// Of the symbolic weight, the kernel must be known.
std::vector<int64_t> kernel_of(const at::Tensor& weight) {
  std::vector<int64_t> kernel;
  for (int64_t d = 2; d < weight.dim(); ++d) kernel.push_back(weight.sym_size(d).guard_int(__FILE__, __LINE__));
  return kernel;
}

at::Tensor output_meta(const char* op, const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                       int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  check_conv_input_dtype(op, input);
  check_qat_conv(op, input, weight, weight_scale, weight_quant_min, weight_quant_max, groups);
  const auto kernel = kernel_of(weight);
  const ConvArgs args{op, input_quant_min, input_quant_max, kernel, stride, padding, dilation, groups};
  check_conv_int8(args, input, weight_scale.reshape(-1).expand_symint({weight.sym_size(0)}), bias, input_scale, input_zero_point);
  return at::empty_symint(conv_output_sizes(args, input, weight.sym_size(0)), input.options(), input.suggest_memory_format());
}

at::Tensor qat_conv_int8_meta(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                              const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                              const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                              int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride,
                              at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool, bool, double, double,
                              std::string_view backward) {
  check_backward_mode("qat_conv_int8", backward);
  return output_meta("qat_conv_int8", input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min,
                     input_quant_max, weight_quant_min, weight_quant_max, stride, padding, dilation, groups);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> forward_meta(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
    const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
    int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, int64_t groups, bool) {
  const at::Tensor y =
      output_meta("qat_conv_int8", input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min,
                  input_quant_max, weight_quant_min, weight_quant_max, stride, padding, dilation, groups);
  const auto bytes = input.options().dtype(at::kByte);
  c10::SymInt sample = 1, filter = 1;
  for (int64_t d = 1; d < input.dim(); ++d) {
    sample = sample * input.sym_size(d);
    filter = filter * weight.sym_size(d);
  }
  return {y, at::empty_symint(input.sym_sizes(), bytes, input.suggest_memory_format()),
          at::empty_symint({input.sym_size(0), (sample + 7) / 8}, bytes),
          at::empty_symint(weight.sym_sizes(), input.options().dtype(at::kChar), weight.suggest_memory_format()),
          at::empty_symint({weight.sym_size(0), (filter + 7) / 8}, bytes)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_meta(
    const at::Tensor& grad_output, const at::Tensor& codes, const std::optional<at::Tensor>&, const at::Tensor& weight_codes,
    const std::optional<at::Tensor>&, const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t, int64_t,
    at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, std::array<bool, 3> wanted, std::string_view backward) {
  check_backward_mode("_qat_conv_int8_backward", backward);
  const auto floats = grad_output.options().dtype(at::kFloat);
  const auto none = [&] { return at::empty({0}, floats); };
  return {wanted[0] ? at::empty_symint(codes.sym_sizes(), floats, codes.suggest_memory_format()) : none(),
          wanted[1] ? at::empty_symint(weight_codes.sym_sizes(), floats, weight_codes.suggest_memory_format()) : none(),
          wanted[2] ? at::empty_symint({weight_codes.sym_size(0)}, floats) : none()};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("qat_conv_int8", &qat_conv_int8_meta);
  m.impl("_qat_conv_int8_forward", &forward_meta);
  m.impl("_qat_conv_int8_backward", &backward_meta);
}

}  // namespace torchqat
