// The training layer with weights in groups: schemas, checks and C++ entry.
#include "ops/qat_linear_grouped.h"

#include "ops/linear_int8.h"
#include "torchqat/linear_grouped.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "qat_linear_grouped(Tensor input, Tensor weight, Tensor? bias, Tensor input_scale, Tensor input_zero_point, "
      "Tensor weight_scale, int group_size, int input_quant_min, int input_quant_max, int weight_quant_min, "
      "int weight_quant_max, bool input_learned=False, bool weight_learned=False, float input_grad_scale=1.0, "
      "float weight_grad_scale=1.0, str backward=\"auto\") -> Tensor");
  m.def(
      "_qat_linear_grouped_forward(Tensor input, Tensor weight, Tensor? bias, Tensor input_scale, "
      "Tensor input_zero_point, Tensor weight_scale, int group_size, int input_quant_min, int input_quant_max, "
      "int weight_quant_min, int weight_quant_max, bool input_learned, bool weight_learned) "
      "-> (Tensor output, Tensor codes, Tensor mask, Tensor weight_codes, Tensor weight_mask)");
  m.def(
      "_qat_linear_grouped_backward(Tensor grad_output, Tensor codes, Tensor? mask, Tensor weight_codes, "
      "Tensor? weight_mask, Tensor input_scale, Tensor input_zero_point, Tensor weight_scale, int group_size, "
      "int input_quant_min, int input_quant_max, ScalarType input_dtype, ScalarType weight_dtype, str backward, "
      "bool[3] output_mask) -> (Tensor, Tensor, Tensor)");
}

c10::SymDimVector check_qat_linear_grouped(const char* op, const at::Tensor& input, const at::Tensor& weight,
                                           const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                           const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                                           int64_t group_size, const CodeRanges& ranges) {
  TORCH_CHECK_VALUE(group_size >= 1, op, ": group_size must be at least 1, got ", group_size);
  TORCH_CHECK_VALUE(weight.dim() == 2, op, ": weight must have shape [N, K], got ", weight.sym_sizes());
  const c10::SymInt groups = (weight.sym_size(1) + group_size - 1) / group_size;
  TORCH_CHECK_VALUE(weight_scale.dim() == 2 && weight_scale.sym_size(0) == weight.sym_size(0) &&
                        weight_scale.sym_size(1) == groups,
                    op, ": weight_scale must have shape [", weight.sym_size(0), ", ", groups, "] for weight ",
                    weight.sym_sizes(), " and group_size ", group_size, ", got ", weight_scale.sym_sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(weight_scale.scalar_type()), op, ": weight_scale must have a floating dtype, got ",
                   weight_scale.scalar_type());
  // The rest is as with one scale per row.
  return check_qat_linear_int8(op, input, weight, bias, input_scale, input_zero_point,
                               at::empty_symint({weight.sym_size(0)}, weight_scale.options().device(at::kMeta)), ranges);
}

void check_qat_linear_grouped_backward(const at::Tensor& grad_output, const at::Tensor& codes,
                                       const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                                       int64_t group_size, c10::string_view backward) {
  constexpr auto op = "_qat_linear_grouped_backward";
  TORCH_CHECK_TYPE(at::isFloatingType(grad_output.scalar_type()), op, ": grad_output must have a floating dtype, got ",
                   grad_output.scalar_type());
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte && weight_codes.scalar_type() == at::kChar, op,
                   ": codes must be uint8 and weight_codes int8, got ", codes.scalar_type(), " and ",
                   weight_codes.scalar_type());
  TORCH_CHECK_VALUE(weight_codes.dim() == 2 && weight_codes.sym_size(0) == grad_output.sym_size(-1), op,
                    ": weight_codes must have shape [", grad_output.sym_size(-1), ", K], got ", weight_codes.sym_sizes());
  const c10::SymInt k_padded = (weight_codes.sym_size(1) + 63) / 64 * 64;
  TORCH_CHECK_VALUE(codes.dim() == 2 && codes.sym_size(0) == row_count(grad_output) && codes.sym_size(1) == k_padded, op,
                    ": codes must have shape [", row_count(grad_output), ", ", k_padded, "], got ", codes.sym_sizes());
  TORCH_CHECK_VALUE(group_size >= 1 && weight_scale.dim() == 2 && weight_scale.sym_size(0) == weight_codes.sym_size(0) &&
                        weight_scale.sym_size(1) == (weight_codes.sym_size(1) + group_size - 1) / group_size,
                    op, ": weight_scale must have one column per group of ", group_size, ", got ", weight_scale.sym_sizes());
  parse_backward(op, backward);
}

namespace {

using OptionalTensor = std::optional<at::Tensor>;

}  // namespace

QatForward qat_linear_grouped_forward(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                      const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                      const at::Tensor& weight_scale, int64_t group_size, const CodeRanges& ranges,
                                      bool input_learned, bool weight_learned) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("torchqat::_qat_linear_grouped_forward", "")
          .typed<QatForward(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const at::Tensor&,
                            const at::Tensor&, const at::Tensor&, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool)>();
  return op.call(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size, ranges.input_min,
                 ranges.input_max, ranges.weight_min, ranges.weight_max, input_learned, weight_learned);
}

Gradients qat_linear_grouped_backward(const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor& mask,
                                      const at::Tensor& weight_codes, const OptionalTensor& weight_mask,
                                      const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                      const at::Tensor& weight_scale, int64_t group_size, int64_t input_quant_min,
                                      int64_t input_quant_max, at::ScalarType input_dtype, at::ScalarType weight_dtype,
                                      c10::string_view backward, std::array<bool, 3> output_mask) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("torchqat::_qat_linear_grouped_backward", "")
          .typed<Gradients(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const at::Tensor&,
                           const OptionalTensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t,
                           int64_t, int64_t, at::ScalarType, at::ScalarType, c10::string_view, std::array<bool, 3>)>();
  return op.call(grad_output, codes, mask, weight_codes, weight_mask, input_scale, input_zero_point, weight_scale,
                 group_size, input_quant_min, input_quant_max, input_dtype, weight_dtype, backward, output_mask);
}

at::Tensor qat_linear_grouped(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                              const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                              const at::Tensor& weight_scale, int64_t group_size, int64_t input_quant_min,
                              int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                              bool input_learned, bool weight_learned, double input_grad_scale, double weight_grad_scale,
                              c10::string_view backward) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("torchqat::qat_linear_grouped", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const at::Tensor&,
                            const at::Tensor&, const at::Tensor&, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool,
                            double, double, c10::string_view)>();
  return op.call(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size, input_quant_min,
                 input_quant_max, weight_quant_min, weight_quant_max, input_learned, weight_learned, input_grad_scale,
                 weight_grad_scale, backward);
}

}  // namespace torchqat
