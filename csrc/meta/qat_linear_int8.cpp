// Shapes of the int8 training layer.
#include "ops/qat_linear_int8.h"

#include "ops/linear_int8.h"
#include "ops/packed_header.h"

namespace torchqat {
namespace {

at::Tensor qat_linear_int8_meta(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                const OptionalTensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                                int64_t weight_quant_min, int64_t weight_quant_max, bool, bool, double, double,
                                c10::string_view backward, const OptionalTensor& packed_weight, const OptionalTensor&) {
  constexpr auto op = "qat_linear_int8";
  parse_backward(op, backward);
  const auto sizes = check_qat_linear_int8(op, input, weight, bias, input_scale, input_zero_point, weight_scale,
                                           {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max},
                                           packed_weight);
  return at::empty_symint(sizes, input.options());
}

QuantizedWeightTensors pack_meta(const at::Tensor& weight, const OptionalTensor& scale, int64_t quant_min,
                                 int64_t quant_max, bool) {
  check_qat_linear_int8_pack("qat_linear_int8_pack", weight, scale, quant_min, quant_max);
  const c10::SymInt n = weight.sym_size(0), k = weight.sym_size(1);
  const auto bytes = weight.options().dtype(at::kByte);
  const c10::SymInt scales = scale.has_value() ? scale->sym_numel() : n;
  return {at::empty_symint({kPackedHeaderBytes + linear_int8_payload(n, k)}, bytes),
          at::empty_symint({n, (k + 7) / 8}, bytes), at::empty_symint({scales}, bytes.dtype(at::kFloat))};
}

QatRows forward_meta(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor&, c10::SymInt n,
                     const OptionalTensor& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                     int64_t input_quant_min, int64_t input_quant_max, bool) {
  constexpr auto op = "qat_linear_int8";
  check_qat_linear_int8_input(op, input, bias, n, input_scale, input_zero_point, input_quant_min, input_quant_max);
  check_packed_tensor(op, "packed_weight", packed_weight);
  const c10::SymInt rows = row_count(input), k = input.sym_size(-1);
  c10::SymDimVector sizes(input.sym_sizes());
  sizes.back() = n;
  const auto bytes = input.options().dtype(at::kByte);
  return {at::empty_symint(sizes, input.options()), at::empty_symint({rows, (k + 63) / 64 * 64}, bytes),
          at::empty_symint({rows, (k + 7) / 8}, bytes)};
}

Gradients backward_meta(const at::Tensor& grad_output, const at::Tensor& codes, const std::optional<at::Tensor>&,
                        const at::Tensor& packed_weight, const std::optional<at::Tensor>&, const at::Tensor&,
                        const at::Tensor&, const at::Tensor&, c10::SymInt k, int64_t, int64_t, at::ScalarType input_dtype,
                        at::ScalarType weight_dtype, c10::string_view backward, std::array<bool, 3> wanted) {
  check_qat_linear_int8_backward(grad_output, codes, packed_weight, backward);
  const c10::SymInt n = grad_output.sym_size(-1);
  c10::SymDimVector sizes(grad_output.sym_sizes());
  sizes.back() = k;
  const auto of = [&](bool want, c10::SymIntArrayRef shape, at::ScalarType dtype) {
    return want ? at::empty_symint(shape, grad_output.options().dtype(dtype))
                : at::empty({0}, grad_output.options().dtype(dtype));
  };
  return {of(wanted[0], sizes, input_dtype), of(wanted[1], {n, k}, weight_dtype), of(wanted[2], {n}, at::kFloat)};
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("qat_linear_int8", &qat_linear_int8_meta);
  m.impl("qat_linear_int8_pack", &pack_meta);
  m.impl("_qat_linear_int8_multiply", &forward_meta);
  m.impl("_qat_linear_int8_backward", &backward_meta);
}

}  // namespace
}  // namespace torchqat
