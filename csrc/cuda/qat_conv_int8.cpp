// The training convolution on CUDA: forward as the deployed one on codes that are kept, gradients by the library's convolutions on
// those codes.
#include "ops/torch_headers.h"

#include "ops/qat_conv_int8.h"

#include <ATen/ops/convolution_backward.h>

#include "cuda/conv_int8.h"
#include "cuda/lines.h"

namespace torchqat::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using cpu::conv::dims_of;
using cpu::conv::positive_scale;
using cpu::conv::rounded_zero_point;

at::Tensor flat(const at::Tensor& t) { return in_type(t.detach(), at::kFloat).view(-1); }

QatConvResult forward(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias, const at::Tensor& input_scale,
                      const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t input_quant_min,
                      int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool learned, bool keep) {
  constexpr auto op = "qat_conv_int8";
  check_conv_input_dtype(op, input);
  check_qat_conv(op, input, weight, weight_scale, weight_quant_min, weight_quant_max, groups);
  const auto kernel_size = weight.sizes().slice(2);
  const ConvArgs args{op, input_quant_min, input_quant_max, kernel_size, stride, padding, dilation, groups};
  check_conv_int8(args, input, weight_scale.reshape(-1).expand({weight.size(0)}), bias, input_scale, input_zero_point);
  TORCH_CHECK_VALUE(weight.device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(),
                    ", got ", weight.device());
  const OnDevice device(input);
  const auto sizes = conv_output_sizes(args, input, weight.size(0));
  const auto format = input.suggest_memory_format();
  const at::Tensor x = input.contiguous(format);
  const int64_t samples = x.size(0), sample = samples == 0 ? 0 : x.numel() / samples, out = weight.size(0);
  const auto byte = x.options().dtype(at::kByte);
  const at::Tensor scale = flat(learned ? positive_scale(input_scale) : input_scale);
  const at::Tensor zero_point = flat(rounded_zero_point(input_zero_point, input_quant_min, input_quant_max));
  const at::Tensor column_scale = flat(learned ? positive_scale(weight_scale) : weight_scale).expand({out}).contiguous();

  QatConvResult r;
  r.output = at::empty_symint(sizes, x.options(), format);
  const WeightCodes w = quantize_weight_lines(weight, column_scale, out == 0 ? 1 : std::max<int64_t>(1, weight.numel() / out),
                                              weight_quant_min, weight_quant_max, device.stream());
  r.weight_codes = w.codes.contiguous(weight.suggest_memory_format());
  r.weight_mask = w.mask;
  if (keep) {
    r.codes = at::empty(x.sizes(), byte, format);
    r.mask = at::empty({samples, (sample + 7) / 8}, byte);
  }
  if (x.numel() == 0 || weight.numel() == 0) {
    r.output.zero_();
    return r;
  }
  const WeightLayout layout = cpu::conv::weight_layout(groups, weight.size(1), out / groups, static_cast<int>(kernel_size.size()),
                                                       dims_of(kernel_size, 1));
  const at::Tensor packed = pack_conv_weight(layout, w.codes, device.stream());
  ConvCall call(args, layout, view_packed_conv(layout, packed, /*has_header=*/false),
                {x, column_scale, bias.has_value() && bias->defined() ? flat(*bias) : at::Tensor(), scale, zero_point, r.output});
  conv_prepare(call.args, device.stream());
  if (keep) {
    QuantizeLines q;
    q.input = x.const_data_ptr();
    q.type = float_type(x.scalar_type());
    q.rows = samples;
    q.columns = q.group = sample;
    q.scale = call.args.input_scale;
    q.zero_point = call.args.input_zero_point;
    q.scale_stride = call.args.scale_stride;
    q.zero_point_stride = call.args.zero_point_stride;
    q.quant_min = call.args.quant_min;
    q.quant_max = call.args.quant_max;
    q.shift = call.args.shift;
    q.codes = r.codes.mutable_data_ptr<uint8_t>();
    q.mask = r.mask.mutable_data_ptr<uint8_t>();
    q.nan_rows = call.args.sample_scale;
    quantize_lines(q, device.stream());
    call.args.input_codes = q.codes;
  }
  conv_multiply(call.args, device.stream());
  return r;
}

at::Tensor qat_conv_int8_op(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                            const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                            int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                            at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                            bool input_learned, bool weight_learned, double, double, std::string_view backward) {
  check_backward_mode("qat_conv_int8", backward);
  return forward(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min, input_quant_max,
                 weight_quant_min, weight_quant_max, stride, padding, dilation, groups, input_learned || weight_learned,
                 /*keep=*/false)
      .output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> forward_op(
    const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias, const at::Tensor& input_scale,
    const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
    int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, int64_t groups, bool learned) {
  auto r = forward(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min, input_quant_max,
                   weight_quant_min, weight_quant_max, stride, padding, dilation, groups, learned, /*keep=*/true);
  return {r.output, r.codes, r.mask, r.weight_codes, r.weight_mask};
}

// [entries] as [entries, 1, ...] of `dims` dimensions, or along the channels.
at::Tensor along(const at::Tensor& t, int64_t dims, size_t at) {
  std::vector<int64_t> shape(static_cast<size_t>(dims), 1);
  shape[at] = t.numel();
  return t.reshape(shape);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_op(
    const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor& mask, const at::Tensor& weight_codes,
    const OptionalTensor& weight_mask, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
    const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, std::array<bool, 3> wanted, std::string_view backward) {
  check_backward_mode("_qat_conv_int8_backward", backward);
  const OnDevice device(grad_output);
  const auto format = codes.suggest_memory_format();
  const int64_t dims = codes.dim();
  const auto floats = grad_output.options().dtype(at::kFloat);
  const at::Tensor grad = grad_output.to(at::kFloat), none = at::empty({0}, floats);
  at::Tensor grad_bias = none;
  if (wanted[2]) {
    std::vector<int64_t> all_but_channels{0};
    for (int64_t d = 2; d < dims; ++d) all_but_channels.push_back(d);
    grad_bias = grad.sum(all_but_channels);
  }
  if (!wanted[0] && !wanted[1]) return {none, none, grad_bias};
  const at::Tensor scale = flat(positive_scale(input_scale)), column_scale = flat(positive_scale(weight_scale));
  const at::Tensor zero_point = flat(rounded_zero_point(input_zero_point, input_quant_min, input_quant_max))
                                    .add(input_quant_min < 0 ? 128.0 : 0.0);
  // Differences of codes are exact in bfloat16; the weight's scale goes into the gradient, which alone is rounded.
  const bool narrow = backward == "bfloat16" || backward == "auto";
  const auto type = narrow ? at::kBFloat16 : at::kFloat;
  const bool per_sample = scale.numel() > 1;
  at::Tensor centred = codes.to(at::kFloat).sub_(along(zero_point, dims, 0));
  if (per_sample && wanted[1]) centred.mul_(along(scale, dims, 0));
  const std::vector<int64_t> output_padding(static_cast<size_t>(dims - 2), 0);
  auto [dx, dw, db] = at::convolution_backward(
      grad.mul(along(column_scale, dims, 1)).to(type).contiguous(format), centred.to(type).contiguous(format),
      weight_codes.to(type).contiguous(format), std::nullopt, stride, padding, dilation, false, output_padding, groups,
      {wanted[0], wanted[1], false});
  at::Tensor grad_input = none, grad_weight = none;
  if (wanted[0]) grad_input = apply_line_mask(dx.contiguous(format), mask, codes.size(0), at::kFloat, device.stream());
  if (wanted[1]) {
    at::Tensor values = dw.to(at::kFloat).contiguous().div_(along(column_scale, dims, 0));
    if (!per_sample) values.mul_(scale.reshape({}));
    grad_weight = apply_line_mask(values, weight_mask, weight_codes.size(0), at::kFloat, device.stream())
                      .contiguous(weight_codes.suggest_memory_format());
  }
  return {grad_input, grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("qat_conv_int8", &qat_conv_int8_op);
  m.impl("_qat_conv_int8_forward", &forward_op);
  m.impl("_qat_conv_int8_backward", &backward_op);
}

}  // namespace
}  // namespace torchqat::cuda
