// The int8 training layer: schemas, checks and C++ entry.
#include "ops/qat_linear_int8.h"

#include "ops/call.h"
#include "ops/linear_int8.h"
#include "ops/packed_header.h"
#include "torchqat/linear_int8.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "qat_linear_int8(Tensor input, Tensor weight, Tensor? bias, Tensor input_scale, Tensor input_zero_point, "
      "Tensor? weight_scale, int input_quant_min, int input_quant_max, int weight_quant_min, int weight_quant_max, "
      "bool input_learned=False, bool weight_learned=False, float input_grad_scale=1.0, float weight_grad_scale=1.0, "
      "str backward=\"auto\", Tensor? packed_weight=None, Tensor? weight_mask=None) -> Tensor");
  m.def(
      "qat_linear_int8_pack(Tensor weight, Tensor? scale, int quant_min, int quant_max, bool learned=False) "
      "-> (Tensor packed_weight, Tensor mask, Tensor scale)");
  m.def(
      "_qat_linear_int8_multiply(Tensor input, Tensor packed_weight, Tensor weight_scale, SymInt n, Tensor? bias, "
      "Tensor input_scale, Tensor input_zero_point, int input_quant_min, int input_quant_max, bool input_learned) "
      "-> (Tensor output, Tensor codes, Tensor mask)");
  m.def(
      "_qat_linear_int8_backward(Tensor grad_output, Tensor codes, Tensor? mask, Tensor packed_weight, Tensor? weight_mask, "
      "Tensor input_scale, Tensor input_zero_point, Tensor weight_scale, SymInt k, int input_quant_min, "
      "int input_quant_max, ScalarType input_dtype, ScalarType weight_dtype, str backward, bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
}

Backward parse_backward(const char* op, c10::string_view name) {
  if (name == "float32") return Backward::float32;
  if (name == "bfloat16") return Backward::bfloat16;
  if (name == "int16") return Backward::int16;
  TORCH_CHECK_VALUE(name == "auto", op, ": backward must be 'float32', 'bfloat16', 'int16' or 'auto', got '", name, "'");
  return Backward::automatic;
}

namespace {

bool is_small_float(at::ScalarType t) { return t == at::kFloat || t == at::kBFloat16 || t == at::kHalf; }

}  // namespace

void check_qat_linear_int8_pack(const char* op, const at::Tensor& weight, const OptionalTensor& weight_scale,
                                int64_t quant_min, int64_t quant_max) {
  TORCH_CHECK_TYPE(is_small_float(weight.scalar_type()), op, ": weight must be float32, bfloat16 or float16, got ",
                   weight.scalar_type());
  TORCH_CHECK_VALUE(weight.dim() == 2, op, ": weight must have shape [N, K], got ", weight.sym_sizes());
  const c10::SymInt n = weight.sym_size(0);
  if (weight_scale.has_value()) {
    TORCH_CHECK_TYPE(at::isFloatingType(weight_scale->scalar_type()), op,
                     ": weight_scale must have a floating dtype, got ", weight_scale->scalar_type());
    if (weight_scale->sym_numel() != 1) {
      TORCH_CHECK_VALUE(weight_scale->sym_numel() == n, op, ": weight_scale must have one element or ", n, ", got shape ",
                        weight_scale->sym_sizes());
    }
  }
  TORCH_CHECK_VALUE(quant_min < quant_max && quant_min >= -128 && quant_max <= 127, op,
                    ": weight_quant_min and weight_quant_max must lie within [-128, 127], in order, got [", quant_min, ", ",
                    quant_max, "]");
  TORCH_CHECK_VALUE(weight_scale.has_value() || quant_max > 0, op,
                    ": weight_quant_max must be > 0 where weight_scale is absent, got ", quant_max);
}

void check_qat_linear_int8_input(const char* op, const at::Tensor& input, const OptionalTensor& bias, const c10::SymInt& n,
                                 const at::Tensor& input_scale, const at::Tensor& input_zero_point, int64_t quant_min,
                                 int64_t quant_max) {
  TORCH_CHECK_TYPE(is_small_float(input.scalar_type()), op, ": input must be float32, bfloat16 or float16, got ",
                   input.scalar_type());
  TORCH_CHECK_VALUE(input.dim() >= 1, op, ": input must have shape [..., K], got a 0-d tensor");
  if (bias.has_value()) {
    TORCH_CHECK_TYPE(at::isFloatingType(bias->scalar_type()), op, ": bias must have a floating dtype, got ",
                     bias->scalar_type());
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == n, op, ": bias must have shape [", n, "], got ",
                      bias->sym_sizes());
  }
  check_byte_range(op, "input_", quant_min, quant_max);
  check_input_qparams(op, input, input_scale, input_zero_point);
}

c10::SymDimVector check_qat_linear_int8(const char* op, const at::Tensor& input, const at::Tensor& weight,
                                        const OptionalTensor& bias, const at::Tensor& input_scale,
                                        const at::Tensor& input_zero_point, const OptionalTensor& weight_scale,
                                        const CodeRanges& ranges, const OptionalTensor& packed_weight) {
  check_qat_linear_int8_pack(op, weight, weight_scale, ranges.weight_min, ranges.weight_max);
  check_qat_linear_int8_input(op, input, bias, weight.sym_size(0), input_scale, input_zero_point, ranges.input_min,
                              ranges.input_max);
  TORCH_CHECK_VALUE(input.sym_size(-1) == weight.sym_size(1), op, ": input must have shape [..., ", weight.sym_size(1),
                    "] for weight ", weight.sym_sizes(), ", got ", input.sym_sizes());
  TORCH_CHECK_VALUE(!packed_weight.has_value() || weight_scale.has_value(), op,
                    ": packed_weight needs the weight_scale that it was packed with");
  c10::SymDimVector sizes(input.sym_sizes());
  sizes.back() = weight.sym_size(0);
  return sizes;
}

void check_qat_linear_int8_backward(const at::Tensor& grad_output, const at::Tensor& codes,
                                    const at::Tensor& packed_weight, c10::string_view backward) {
  constexpr auto op = "_qat_linear_int8_backward";
  TORCH_CHECK_TYPE(at::isFloatingType(grad_output.scalar_type()), op, ": grad_output must have a floating dtype, got ",
                   grad_output.scalar_type());
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte, op, ": codes must be uint8, got ", codes.scalar_type());
  TORCH_CHECK_VALUE(codes.dim() == 2 && codes.sym_size(0) == row_count(grad_output), op,
                    ": codes must have one row per row of grad_output ", grad_output.sym_sizes(), ", got ",
                    codes.sym_sizes());
  check_packed_tensor(op, "packed_weight", packed_weight);
  parse_backward(op, backward);
}

QuantizedWeightTensors qat_linear_int8_pack(const at::Tensor& weight, const OptionalTensor& scale, int64_t quant_min,
                                            int64_t quant_max, bool learned) {
  static const auto op = find_op<decltype(qat_linear_int8_pack)>("torchqat::qat_linear_int8_pack");
  return op.call(weight, scale, quant_min, quant_max, learned);
}

QatRows qat_linear_int8_forward(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                c10::SymInt n, const OptionalTensor& bias, const at::Tensor& input_scale,
                                const at::Tensor& input_zero_point, int64_t input_quant_min, int64_t input_quant_max,
                                bool input_learned) {
  static const auto op = find_op<decltype(qat_linear_int8_forward)>("torchqat::_qat_linear_int8_multiply");
  return op.call(input, packed_weight, weight_scale, std::move(n), bias, input_scale, input_zero_point, input_quant_min,
                 input_quant_max, input_learned);
}

Gradients qat_linear_int8_backward(const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor& mask,
                                   const at::Tensor& packed_weight, const OptionalTensor& weight_mask,
                                   const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                   const at::Tensor& weight_scale, c10::SymInt k, int64_t input_quant_min,
                                   int64_t input_quant_max, at::ScalarType input_dtype, at::ScalarType weight_dtype,
                                   c10::string_view backward, std::array<bool, 3> output_mask) {
  static const auto op = find_op<decltype(qat_linear_int8_backward)>("torchqat::_qat_linear_int8_backward");
  return op.call(grad_output, codes, mask, packed_weight, weight_mask, input_scale, input_zero_point, weight_scale,
                 std::move(k), input_quant_min, input_quant_max, input_dtype, weight_dtype, backward, output_mask);
}

at::Tensor qat_linear_int8(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                           const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                           const OptionalTensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                           int64_t weight_quant_min, int64_t weight_quant_max, bool input_learned, bool weight_learned,
                           double input_grad_scale, double weight_grad_scale, c10::string_view backward,
                           const OptionalTensor& packed_weight, const OptionalTensor& weight_mask) {
  static const auto op = find_op<decltype(qat_linear_int8)>("torchqat::qat_linear_int8");
  return op.call(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min, input_quant_max,
                 weight_quant_min, weight_quant_max, input_learned, weight_learned, input_grad_scale, weight_grad_scale,
                 backward, packed_weight, weight_mask);
}

}  // namespace torchqat
