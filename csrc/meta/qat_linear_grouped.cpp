// Shapes of the training layer with weights in groups.
#include "ops/qat_linear_grouped.h"

#include "ops/linear_int8.h"

namespace torchqat {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor qat_linear_grouped_meta(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                   const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                   const at::Tensor& weight_scale, int64_t group_size, int64_t input_quant_min,
                                   int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max, bool, bool,
                                   double, double, c10::string_view backward) {
  constexpr auto op = "qat_linear_grouped";
  parse_backward(op, backward);
  const auto sizes = check_qat_linear_grouped(op, input, weight, bias, input_scale, input_zero_point, weight_scale, group_size,
                                              {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max});
  return at::empty_symint(sizes, input.options());
}

QatForward forward_meta(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                        const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                        int64_t group_size, int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                        int64_t weight_quant_max, bool, bool) {
  const auto sizes =
      check_qat_linear_grouped("qat_linear_grouped", input, weight, bias, input_scale, input_zero_point, weight_scale,
                               group_size, {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max});
  const c10::SymInt rows = row_count(input), n = weight.sym_size(0), k = weight.sym_size(1);
  const c10::SymInt k_padded = (k + 63) / 64 * 64, mask_bytes = (k + 7) / 8;
  const auto bytes = input.options().dtype(at::kByte);
  return {at::empty_symint(sizes, input.options()), at::empty_symint({rows, k_padded}, bytes),
          at::empty_symint({rows, mask_bytes}, bytes), at::empty_symint({n, k}, bytes.dtype(at::kChar)),
          at::empty_symint({n, mask_bytes}, bytes)};
}

Gradients backward_meta(const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor&,
                        const at::Tensor& weight_codes, const OptionalTensor&, const at::Tensor&, const at::Tensor&,
                        const at::Tensor& weight_scale, int64_t group_size, int64_t, int64_t, at::ScalarType input_dtype,
                        at::ScalarType weight_dtype, c10::string_view backward, std::array<bool, 3> wanted) {
  check_qat_linear_grouped_backward(grad_output, codes, weight_codes, weight_scale, group_size, backward);
  const c10::SymInt n = weight_codes.sym_size(0), k = weight_codes.sym_size(1);
  c10::SymDimVector sizes(grad_output.sym_sizes());
  sizes.back() = k;
  const auto of = [&](bool want, c10::SymIntArrayRef shape, at::ScalarType dtype) {
    return want ? at::empty_symint(shape, grad_output.options().dtype(dtype))
                : at::empty({0}, grad_output.options().dtype(dtype));
  };
  return {of(wanted[0], sizes, input_dtype), of(wanted[1], {n, k}, weight_dtype), of(wanted[2], {n}, at::kFloat)};
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("qat_linear_grouped", &qat_linear_grouped_meta);
  m.impl("_qat_linear_grouped_forward", &forward_meta);
  m.impl("_qat_linear_grouped_backward", &backward_meta);
}

}  // namespace
}  // namespace torchqat
