// Shapes of the int8 linear ops. linear_int8_unpack has no Meta kernel: its shape is in the packed data.
#include "ops/linear_int8.h"

#include "ops/packed_header.h"

namespace torchqat {
namespace {

at::Tensor linear_int8_pack_meta(const at::Tensor& codes) {
  check_linear_int8_pack(codes);
  return at::empty_symint({kPackedHeaderBytes + linear_int8_payload(codes.sym_size(0), codes.sym_size(1))},
                          codes.options().dtype(at::kByte));
}

at::Tensor linear_int8_meta(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                            const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                            const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max) {
  const auto sizes = check_linear_int8("linear_int8", input, packed_weight, weight_scale, bias, quant_min, quant_max);
  check_input_qparams("linear_int8", input, input_scale, input_zero_point);
  return at::empty_symint(sizes, input.options());
}

at::Tensor linear_int8_dynamic_meta(const at::Tensor& input, const at::Tensor& packed_weight,
                                    const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias, bool,
                                    int64_t quant_min, int64_t quant_max, bool) {
  return at::empty_symint(
      check_linear_int8("linear_int8_dynamic", input, packed_weight, weight_scale, bias, quant_min, quant_max),
      input.options());
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("linear_int8_pack", &linear_int8_pack_meta);
  m.impl("linear_int8", &linear_int8_meta);
  m.impl("linear_int8_dynamic", &linear_int8_dynamic_meta);
}

}  // namespace
}  // namespace torchqat
