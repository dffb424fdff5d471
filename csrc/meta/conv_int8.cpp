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
  check_conv_input_dtype(args.op, input);
  check_packed_tensor(args.op, "packed_weight", packed_weight);
  check_conv_int8(args, input, weight_scale, bias, input_scale, input_zero_point);
  return at::empty_symint(conv_output_sizes(args, input, weight_scale.sym_size(0)), input.options(),
                          input.suggest_memory_format());
}

at::Tensor conv_int8_pack_meta(const at::Tensor& codes, int64_t groups) {
  check_conv_codes(codes, groups);
  return at::empty({conv_packed_bytes(codes, groups)}, codes.options().dtype(at::kByte));
}

}  // namespace

// conv_int8_unpack has none: the sizes it returns are in the packed data.
TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("conv_int8", &conv_int8_meta);
  m.impl("conv_int8_pack", &conv_int8_pack_meta);
}

}  // namespace torchqat
