// Linear layers on weights in groups: schemas, checks and C++ entry.
#include "ops/linear_grouped.h"

#include "ops/packed_header.h"
#include "torchqat/linear_grouped.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("linear_grouped_pack(Tensor codes, int bits, int group_size) -> Tensor");
  m.def("linear_grouped_unpack(Tensor packed_weight) -> Tensor");
  m.def("linear_grouped_pack_scale(Tensor weight_scale) -> Tensor");
  m.def(
      "linear_grouped_int8(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor? bias, Tensor input_scale, "
      "Tensor input_zero_point, int quant_min, int quant_max) -> Tensor");
  m.def(
      "linear_grouped_int8_dynamic(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor? bias, "
      "bool per_token, int quant_min, int quant_max, bool symmetric) -> Tensor");
  m.def(
      "linear_weight_only(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor? weight_zero_point, "
      "Tensor? bias) -> Tensor");
}

void check_linear_grouped_pack(const at::Tensor& codes, int64_t bits, int64_t group_size) {
  constexpr auto op = "linear_grouped_pack";
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kChar || codes.scalar_type() == at::kByte, op,
                   ": codes must be int8 (signed grids) or uint8, got ", codes.scalar_type());
  TORCH_CHECK_VALUE(codes.dim() == 2, op, ": codes must have shape [N, K], got ", codes.sym_sizes());
  TORCH_CHECK_VALUE(bits == 2 || bits == 3 || bits == 4 || bits == 8, op, ": bits must be 2, 3, 4 or 8, got ", bits);
  TORCH_CHECK_VALUE(group_size >= 1, op, ": group_size must be at least 1, got ", group_size);
}

void check_weight_scale_form(const char* op, const at::Tensor& weight_scale) {
  TORCH_CHECK_TYPE(at::isFloatingType(weight_scale.scalar_type()), op, ": weight_scale must have a floating dtype, got ",
                   weight_scale.scalar_type());
  const bool packed = weight_scale.dim() == 3 && weight_scale.sym_size(2) == 64;
  TORCH_CHECK_VALUE(weight_scale.dim() == 2 || packed, op,
                    ": weight_scale must have shape [N, groups], or [N / 64, groups, 64] from linear_grouped_pack_scale, got ",
                    weight_scale.sym_sizes());
}

c10::SymInt grouped_out_features(const at::Tensor& weight_scale) {
  return weight_scale.dim() == 3 ? weight_scale.sym_size(0) * 64 : weight_scale.sym_size(0);
}

c10::SymDimVector check_linear_grouped(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                                       const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias) {
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat || input.scalar_type() == at::kBFloat16 ||
                       input.scalar_type() == at::kHalf,
                   op, ": input must be float32, bfloat16 or float16, got ", input.scalar_type());
  TORCH_CHECK_VALUE(input.dim() >= 1, op, ": input must have shape [..., K], got a 0-d tensor");
  check_packed_tensor(op, "packed_weight", packed_weight);
  check_weight_scale_form(op, weight_scale);
  const c10::SymInt n = grouped_out_features(weight_scale);
  if (bias.has_value()) {
    TORCH_CHECK_TYPE(at::isFloatingType(bias->scalar_type()), op, ": bias must have a floating dtype, got ",
                     bias->scalar_type());
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == n, op, ": bias must have shape [", n, "], got ",
                      bias->sym_sizes());
  }
  c10::SymDimVector sizes(input.sym_sizes());
  sizes.back() = n;
  return sizes;
}

void check_weight_zero_point(const char* op, const at::Tensor& weight_scale, const std::optional<at::Tensor>& zero_point) {
  if (!zero_point.has_value()) return;
  const c10::SymInt n = grouped_out_features(weight_scale), groups = weight_scale.sym_size(1);
  TORCH_CHECK_VALUE(zero_point->dim() == 2 && zero_point->sym_size(0) == n && zero_point->sym_size(1) == groups, op,
                    ": weight_zero_point must have shape [", n, ", ", groups, "], got ", zero_point->sym_sizes());
  TORCH_CHECK_TYPE(zero_point->scalar_type() != at::kBool && !zero_point->is_complex(), op,
                   ": weight_zero_point must have an integer or floating dtype, got ", zero_point->scalar_type());
}

namespace {

using OptionalTensor = std::optional<at::Tensor>;

template <typename Signature>
auto find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace

at::Tensor linear_grouped_pack(const at::Tensor& codes, int64_t bits, int64_t group_size) {
  static const auto op = find<at::Tensor(const at::Tensor&, int64_t, int64_t)>("torchqat::linear_grouped_pack");
  return op.call(codes, bits, group_size);
}

at::Tensor linear_grouped_unpack(const at::Tensor& packed_weight) {
  static const auto op = find<at::Tensor(const at::Tensor&)>("torchqat::linear_grouped_unpack");
  return op.call(packed_weight);
}

at::Tensor linear_grouped_pack_scale(const at::Tensor& weight_scale) {
  static const auto op = find<at::Tensor(const at::Tensor&)>("torchqat::linear_grouped_pack_scale");
  return op.call(weight_scale);
}

at::Tensor linear_grouped_int8(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                               const OptionalTensor& bias, const at::Tensor& input_scale,
                               const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max) {
  static const auto op =
      find<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, const at::Tensor&,
                      const at::Tensor&, int64_t, int64_t)>("torchqat::linear_grouped_int8");
  return op.call(input, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max);
}

at::Tensor linear_grouped_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight,
                                       const at::Tensor& weight_scale, const OptionalTensor& bias, bool per_token,
                                       int64_t quant_min, int64_t quant_max, bool symmetric) {
  static const auto op =
      find<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, bool, int64_t,
                      int64_t, bool)>("torchqat::linear_grouped_int8_dynamic");
  return op.call(input, packed_weight, weight_scale, bias, per_token, quant_min, quant_max, symmetric);
}

at::Tensor linear_weight_only(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                              const OptionalTensor& weight_zero_point, const OptionalTensor& bias) {
  static const auto op = find<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                                         const OptionalTensor&)>("torchqat::linear_weight_only");
  return op.call(input, packed_weight, weight_scale, weight_zero_point, bias);
}

}  // namespace torchqat
