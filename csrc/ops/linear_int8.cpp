// Deployed linear layers on int8 codes: schemas, checks and C++ entry.
#include "ops/linear_int8.h"

#include "ops/packed_header.h"
#include "torchqat/linear_int8.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("linear_int8_pack(Tensor codes) -> Tensor");
  m.def("linear_int8_unpack(Tensor packed_weight) -> Tensor");
  m.def(
      "linear_int8(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor? bias, Tensor input_scale, "
      "Tensor input_zero_point, int quant_min, int quant_max) -> Tensor");
  m.def(
      "linear_int8_dynamic(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor? bias, bool per_token, "
      "int quant_min, int quant_max, bool symmetric) -> Tensor");
}

c10::SymInt linear_int8_payload(const c10::SymInt& n, const c10::SymInt& k) {
  const c10::SymInt n_padded = (n + 63) / 64 * 64, k_padded = (k + 63) / 64 * 64;
  const c10::SymInt segments = ((k + 65535) / 65536).max(1);
  return n_padded * (k_padded + segments * 4);
}

void check_linear_int8_pack(const at::Tensor& codes) {
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kChar, "linear_int8_pack: codes must be int8, got ", codes.scalar_type());
  TORCH_CHECK_VALUE(codes.dim() == 2, "linear_int8_pack: codes must have shape [N, K], got ", codes.sym_sizes());
}

int64_t check_byte_range(const char* op, const char* name, int64_t quant_min, int64_t quant_max) {
  TORCH_CHECK_VALUE(quant_min < quant_max, op, ": ", name, "quant_min must be less than ", name, "quant_max, got ",
                    quant_min, " and ", quant_max);
  const bool is_signed = quant_min < 0;
  TORCH_CHECK_VALUE(is_signed ? quant_min >= -128 && quant_max <= 127 : quant_max <= 255, op, ": ", name,
                    "quant_min and ", name, "quant_max must lie within [-128, 127] or [0, 255], got [", quant_min, ", ",
                    quant_max, "]");
  return is_signed ? 128 : 0;
}

c10::SymInt row_count(const at::Tensor& input) {
  c10::SymInt rows = 1;
  for (int64_t d = 0; d + 1 < input.dim(); ++d) rows = rows * input.sym_size(d);
  return rows;
}

void check_input_qparams(const char* op, const at::Tensor& input, const at::Tensor& input_scale,
                         const at::Tensor& input_zero_point) {
  TORCH_CHECK_TYPE(at::isFloatingType(input_scale.scalar_type()), op, ": input_scale must have a floating dtype, got ",
                   input_scale.scalar_type());
  TORCH_CHECK_TYPE(at::isIntegralType(input_zero_point.scalar_type(), false) ||
                       at::isFloatingType(input_zero_point.scalar_type()),
                   op, ": input_zero_point must have an integer or floating dtype, got ", input_zero_point.scalar_type());
  const c10::SymInt count = input_scale.sym_numel();
  if (count != 1) {
    TORCH_CHECK_VALUE(count == row_count(input), op, ": input_scale must have one element or one per row of input (",
                      row_count(input), "), got shape ", input_scale.sym_sizes());
  }
  TORCH_CHECK_VALUE(input_zero_point.sym_numel() == count, op, ": input_zero_point must have as many elements as input_scale, ",
                    count, ", got shape ", input_zero_point.sym_sizes());
}

namespace {
c10::SymDimVector check_linear_sizes(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                                     const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias, int64_t quant_min,
                                     int64_t quant_max);
}

c10::SymDimVector check_linear_int8(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                                    const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                    int64_t quant_min, int64_t quant_max) {
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat || input.scalar_type() == at::kBFloat16 ||
                       input.scalar_type() == at::kHalf,
                   op, ": input must be float32, bfloat16 or float16, got ", input.scalar_type());
  return check_linear_sizes(op, input, packed_weight, weight_scale, bias, quant_min, quant_max);
}

namespace {
c10::SymDimVector check_linear_sizes(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                                     const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias, int64_t quant_min,
                                     int64_t quant_max) {
  TORCH_CHECK_VALUE(input.dim() >= 1, op, ": input must have shape [..., K], got a 0-d tensor");
  check_packed_tensor(op, "packed_weight", packed_weight);
  TORCH_CHECK_TYPE(at::isFloatingType(weight_scale.scalar_type()), op, ": weight_scale must have a floating dtype, got ",
                   weight_scale.scalar_type());
  TORCH_CHECK_VALUE(weight_scale.dim() == 1 || (weight_scale.dim() == 2 && weight_scale.sym_size(1) == 1), op,
                    ": weight_scale must have shape [N] or [N, 1], got ", weight_scale.sym_sizes());
  const c10::SymInt n = weight_scale.sym_size(0);
  if (bias.has_value()) {
    TORCH_CHECK_TYPE(at::isFloatingType(bias->scalar_type()), op, ": bias must have a floating dtype, got ",
                     bias->scalar_type());
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == n, op, ": bias must have shape [", n, "], got ",
                      bias->sym_sizes());
  }
  check_byte_range(op, "", quant_min, quant_max);
  c10::SymDimVector sizes(input.sym_sizes());
  sizes.back() = n;
  return sizes;
}
}  // namespace

c10::SymDimVector check_linear_int8_codes(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                                          const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                          const at::Tensor& input_scale, const at::Tensor& input_zero_point, int64_t quant_min,
                                          int64_t quant_max) {
  const auto type = input.scalar_type(), wanted = quant_min < 0 ? at::kChar : at::kByte;
  TORCH_CHECK_TYPE(at::isFloatingType(type) || type == wanted, op, ": input must be float32, bfloat16 or float16, or ", wanted,
                   " codes for the range [", quant_min, ", ", quant_max, "], got ", type);
  check_input_qparams(op, input, input_scale, input_zero_point);
  if (at::isFloatingType(type)) return check_linear_int8(op, input, packed_weight, weight_scale, bias, quant_min, quant_max);
  TORCH_CHECK_VALUE(input_scale.sym_numel() == 1, op, ": input_scale must have one element where input is codes, got shape ",
                    input_scale.sym_sizes());
  return check_linear_sizes(op, input, packed_weight, weight_scale, bias, quant_min, quant_max);
}

at::Tensor linear_int8_pack(const at::Tensor& codes) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::linear_int8_pack", "")
                             .typed<at::Tensor(const at::Tensor&)>();
  return op.call(codes);
}

at::Tensor linear_int8_unpack(const at::Tensor& packed_weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::linear_int8_unpack", "")
                             .typed<at::Tensor(const at::Tensor&)>();
  return op.call(packed_weight);
}

at::Tensor linear_int8(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                       const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                       const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("torchqat::linear_int8", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                            const at::Tensor&, const at::Tensor&, int64_t, int64_t)>();
  return op.call(input, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max);
}

at::Tensor linear_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                               const std::optional<at::Tensor>& bias, bool per_token, int64_t quant_min,
                               int64_t quant_max, bool symmetric) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("torchqat::linear_int8_dynamic", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                            bool, int64_t, int64_t, bool)>();
  return op.call(input, packed_weight, weight_scale, bias, per_token, quant_min, quant_max, symmetric);
}

}  // namespace torchqat
