// conv_int8: schemas, checks and C++ entry.
#include "ops/conv_int8.h"

#include "cpu/kernels/conv_plan.h"
#include "torchqat/conv_int8.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("conv_int8_pack(Tensor codes, int groups=1) -> Tensor");
  m.def("conv_int8_unpack(Tensor packed_weight) -> Tensor");
  m.def(
      "conv_int8(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor? bias, Tensor input_scale, "
      "Tensor input_zero_point, int quant_min, int quant_max, int[] kernel_size, int[] stride, int[] padding, "
      "int[] dilation, int groups=1) -> Tensor");
  m.def(
      "conv_int8_codes(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor? bias, Tensor input_scale, "
      "Tensor input_zero_point, int quant_min, int quant_max, int[] kernel_size, int[] stride, int[] padding, "
      "int[] dilation, int groups, bool relu, Tensor output_scale, Tensor output_zero_point, int output_quant_min, "
      "int output_quant_max) -> Tensor");
}

void check_conv_codes(const at::Tensor& codes, int64_t groups) {
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kChar, "conv_int8_pack: codes must be int8, got ", codes.scalar_type());
  TORCH_CHECK_VALUE(codes.dim() >= 3 && codes.dim() <= 5,
                    "conv_int8_pack: codes must be [out, in / groups, *kernel] with 1 to 3 kernel dimensions, got shape ",
                    codes.sym_sizes());
  for (int64_t d = 0; d < codes.dim(); ++d) {
    TORCH_CHECK_VALUE(codes.sym_size(d) >= 1, "conv_int8_pack: codes must not be empty, got shape ", codes.sym_sizes());
  }
  TORCH_CHECK_VALUE(groups >= 1, "conv_int8_pack: groups must be at least 1, got ", groups);
  TORCH_CHECK_VALUE(codes.sym_size(0) % groups == 0, "conv_int8_pack: groups must divide the ", codes.sym_size(0),
                    " output channels, got ", groups);
}

int64_t conv_packed_bytes(const at::Tensor& codes, int64_t groups) {
  cpu::conv::Dims kernel{1, 1, 1};
  const int64_t spatial = codes.dim() - 2;
  for (int64_t d = 0; d < spatial; ++d) kernel[static_cast<size_t>(3 - spatial + d)] = codes.size(2 + d);
  return cpu::conv::weight_layout(groups, codes.size(1), codes.size(0) / groups, static_cast<int>(spatial), kernel).packed_bytes();
}

namespace {

void check_list(const ConvArgs& a, const char* name, at::IntArrayRef list, size_t spatial, int64_t least) {
  TORCH_CHECK_VALUE(list.size() == spatial, a.op, ": ", name, " must have ", spatial, " entries, got ", list);
  for (int64_t x : list) TORCH_CHECK_VALUE(x >= least, a.op, ": ", name, " must be at least ", least, ", got ", list);
}

}  // namespace

void check_conv_input_dtype(const char* op, const at::Tensor& input) {
  const auto dtype = input.scalar_type();
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf, op,
                   ": input must be float32, bfloat16 or float16, got ", dtype);
}

void check_conv_input(const ConvArgs& a, const at::Tensor& input) {
  if (input.is_floating_point()) return check_conv_input_dtype(a.op, input);
  const auto wanted = a.quant_min < 0 ? at::kChar : at::kByte;
  TORCH_CHECK_TYPE(input.scalar_type() == wanted, a.op, ": input must be float32, bfloat16 or float16, or ", wanted,
                   " codes for the range [", a.quant_min, ", ", a.quant_max, "], got ", input.scalar_type());
}

void check_conv_output_grid(const char* op, const at::Tensor& scale, const at::Tensor& zero_point, int64_t low, int64_t high) {
  TORCH_CHECK_TYPE(at::isFloatingType(scale.scalar_type()), op, ": output_scale must be floating, got ", scale.scalar_type());
  TORCH_CHECK_VALUE(scale.sym_numel() == 1, op, ": output_scale must have 1 element, got shape ", scale.sym_sizes());
  TORCH_CHECK_VALUE(zero_point.sym_numel() == 1, op, ": output_zero_point must have 1 element, got shape ", zero_point.sym_sizes());
  TORCH_CHECK_VALUE(-128 <= low && low < high && high <= (low < 0 ? 127 : 255), op,
                    ": output_quant_min and output_quant_max must be an increasing range within [-128, 127] or [0, 255], got [",
                    low, ", ", high, "]");
}

void check_conv_int8(const ConvArgs& a, const at::Tensor& input, const at::Tensor& weight_scale,
                     const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                     const at::Tensor& input_zero_point) {
  const size_t spatial = a.kernel_size.size();
  TORCH_CHECK_VALUE(spatial >= 1 && spatial <= 3, a.op, ": kernel_size must have 1 to 3 entries, got ", a.kernel_size);
  check_list(a, "kernel_size", a.kernel_size, spatial, 1);
  check_list(a, "stride", a.stride, spatial, 1);
  check_list(a, "padding", a.padding, spatial, 0);
  check_list(a, "dilation", a.dilation, spatial, 1);
  TORCH_CHECK_VALUE(a.groups >= 1, a.op, ": groups must be at least 1, got ", a.groups);
  TORCH_CHECK_VALUE(input.dim() == static_cast<int64_t>(spatial) + 2, a.op, ": input must have ", spatial + 2,
                    " dimensions [N, C, *spatial], got shape ", input.sym_sizes());
  TORCH_CHECK_VALUE(input.sym_size(1) % a.groups == 0, a.op, ": groups must divide the ", input.sym_size(1),
                    " input channels, got ", a.groups);
  TORCH_CHECK_VALUE(-128 <= a.quant_min && a.quant_min < a.quant_max && a.quant_max <= (a.quant_min < 0 ? 127 : 255), a.op,
                    ": quant_min and quant_max must be an increasing range within [-128, 127] or [0, 255], got [",
                    a.quant_min, ", ", a.quant_max, "]");
  TORCH_CHECK_TYPE(at::isFloatingType(weight_scale.scalar_type()), a.op, ": weight_scale must be floating, got ",
                   weight_scale.scalar_type());
  TORCH_CHECK_VALUE(weight_scale.dim() == 1, a.op, ": weight_scale must have shape [out channels], got ",
                    weight_scale.sym_sizes());
  TORCH_CHECK_VALUE(weight_scale.sym_size(0) % a.groups == 0, a.op, ": weight_scale must have an entry for each output channel, a "
                    "multiple of groups ", a.groups, ", got ", weight_scale.sym_size(0));
  if (bias.has_value() && bias->defined()) {
    TORCH_CHECK_TYPE(at::isFloatingType(bias->scalar_type()), a.op, ": bias must be floating, got ", bias->scalar_type());
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == weight_scale.sym_size(0), a.op, ": bias must have shape [",
                      weight_scale.sym_size(0), "], got ", bias->sym_sizes());
  }
  TORCH_CHECK_TYPE(at::isFloatingType(input_scale.scalar_type()), a.op, ": input_scale must be floating, got ",
                   input_scale.scalar_type());
  for (const auto& [name, t] : {std::pair<const char*, const at::Tensor&>{"input_scale", input_scale},
                                std::pair<const char*, const at::Tensor&>{"input_zero_point", input_zero_point}}) {
    TORCH_CHECK_VALUE(t.sym_numel() == 1 || t.sym_numel() == input.sym_size(0), a.op, ": ", name,
                      " must have 1 element or one for each of the ", input.sym_size(0), " samples, got shape ", t.sym_sizes());
  }
  for (const auto* t : {&weight_scale, &input_scale, &input_zero_point}) {
    TORCH_CHECK_VALUE(t->device() == input.device(), a.op, ": all tensors must be on the device of input, ", input.device(),
                      ", got ", t->device());
  }
}

c10::SymDimVector conv_output_sizes(const ConvArgs& a, const at::Tensor& input, const c10::SymInt& out_channels) {
  c10::SymDimVector sizes{input.sym_size(0), out_channels};
  for (size_t d = 0; d < a.kernel_size.size(); ++d) {
    const c10::SymInt in = input.sym_size(static_cast<int64_t>(d) + 2);
    const int64_t reach = a.dilation[d] * (a.kernel_size[d] - 1) + 1;
    TORCH_CHECK_VALUE(in + 2 * a.padding[d] >= reach, a.op, ": kernel_size ", a.kernel_size, " with dilation ", a.dilation,
                      " and padding ", a.padding, " must fit the input, got shape ", input.sym_sizes());
    sizes.push_back((in + 2 * a.padding[d] - reach) / a.stride[d] + 1);
  }
  return sizes;
}

at::Tensor conv_int8_pack(const at::Tensor& codes, int64_t groups) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::conv_int8_pack", "")
                             .typed<at::Tensor(const at::Tensor&, int64_t)>();
  return op.call(codes, groups);
}

at::Tensor conv_int8_unpack(const at::Tensor& packed_weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::conv_int8_unpack", "")
                             .typed<at::Tensor(const at::Tensor&)>();
  return op.call(packed_weight);
}

at::Tensor conv_int8(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                     const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                     const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max, at::IntArrayRef kernel_size,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("torchqat::conv_int8", "").typed<decltype(conv_int8)>();
  return op.call(input, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max, kernel_size,
                 stride, padding, dilation, groups);
}

at::Tensor conv_int8_codes(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                           const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                           const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                           at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                           at::IntArrayRef dilation, int64_t groups, bool relu, const at::Tensor& output_scale,
                           const at::Tensor& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("torchqat::conv_int8_codes", "").typed<decltype(conv_int8_codes)>();
  return op.call(input, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max, kernel_size,
                 stride, padding, dilation, groups, relu, output_scale, output_zero_point, output_quant_min, output_quant_max);
}

}  // namespace torchqat
