// Shapes of the integer convolution ops.
#include "ops/conv_int8.h"
#include "ops/packed_header.h"

namespace torchqat {
namespace {

at::Tensor conv_int8_meta(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                          const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                          const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                          at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                          at::IntArrayRef dilation, int64_t groups) {
  const ConvArgs args{"conv_int8", quant_min, quant_max, kernel_size, stride, padding, dilation, groups};
  check_conv_input(args, input);
  check_packed_tensor(args.op, "packed_weight", packed_weight);
  check_conv_int8(args, input, weight_scale, bias, input_scale, input_zero_point);
  const auto type = input.is_floating_point() ? input.scalar_type() : at::kFloat;
  return at::empty_symint(conv_output_sizes(args, input, weight_scale.sym_size(0)), input.options().dtype(type),
                          input.suggest_memory_format());
}

at::Tensor conv_int8_codes_meta(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                                at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                                at::IntArrayRef dilation, int64_t groups, bool, const at::Tensor& output_scale,
                                const at::Tensor& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  const ConvArgs args{"conv_int8_codes", quant_min, quant_max, kernel_size, stride, padding, dilation, groups};
  check_conv_input(args, input);
  check_packed_tensor(args.op, "packed_weight", packed_weight);
  check_conv_int8(args, input, weight_scale, bias, input_scale, input_zero_point);
  check_conv_output_grid(args.op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  return at::empty_symint(conv_output_sizes(args, input, weight_scale.sym_size(0)),
                          input.options().dtype(output_quant_min < 0 ? at::kChar : at::kByte), input.suggest_memory_format());
}

at::Tensor conv_int8_pack_meta(const at::Tensor& codes, int64_t groups) {
  check_conv_codes(codes, groups);
  return at::empty({conv_packed_bytes(codes, groups)}, codes.options().dtype(at::kByte));
}

}  // namespace

// conv_int8_unpack has none: the sizes it returns are in the packed data.
TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("conv_int8", &conv_int8_meta);
  m.impl("conv_int8_codes", &conv_int8_codes_meta);
  m.impl("conv_int8_pack", &conv_int8_pack_meta);
}

}  // namespace torchqat
