// The training form of element-wise functions: schemas, checks and C++ entry.
#include "ops/qat_lookup.h"

#include "ops/call.h"
#include "ops/forms.h"
#include "torchqat/forms.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "qat_lookup_int8(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, Tensor table, Tensor slope) -> "
      "Tensor");
  m.def(
      "_qat_lookup_int8_forward(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, Tensor table) -> "
      "(Tensor, Tensor, Tensor)");
  m.def("_qat_lookup_int8_backward(Tensor grad, Tensor index, Tensor mask, Tensor slope) -> Tensor");
}

namespace {

constexpr auto op_name = "qat_lookup_int8";

void check_entries(const char* name, const at::Tensor& entries, int64_t quant_min, int64_t quant_max) {
  TORCH_CHECK_TYPE(entries.scalar_type() == at::kFloat, op_name, ": ", name, " must be float32, got ", entries.scalar_type());
  TORCH_CHECK_VALUE(entries.dim() == 1 && entries.sym_size(0) == quant_max - quant_min + 1, op_name, ": ", name, " must have shape [",
                    quant_max - quant_min + 1, "] for the range [", quant_min, ", ", quant_max, "], got ", entries.sym_sizes());
}

}  // namespace

void check_qat_lookup(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                      int64_t quant_max, const at::Tensor& table) {
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat, op_name, ": input must be float32, got ", input.scalar_type());
  check_form_grid(op_name, {"", scale, zero_point, quant_min, quant_max});
  check_entries("table", table, quant_min, quant_max);
}

void check_slope(const at::Tensor& slope, int64_t quant_min, int64_t quant_max) { check_entries("slope", slope, quant_min, quant_max); }

void check_qat_lookup_backward(const at::Tensor& grad, const at::Tensor& index, const at::Tensor& mask, const at::Tensor& slope) {
  constexpr auto op = "_qat_lookup_int8_backward";
  TORCH_CHECK_TYPE(grad.scalar_type() == at::kFloat && slope.scalar_type() == at::kFloat, op, ": grad and slope must be float32, got ",
                   grad.scalar_type(), " and ", slope.scalar_type());
  TORCH_CHECK_TYPE(index.scalar_type() == at::kByte && mask.scalar_type() == at::kByte, op, ": index and mask must be uint8, got ",
                   index.scalar_type(), " and ", mask.scalar_type());
  TORCH_CHECK_VALUE(grad.sym_sizes() == index.sym_sizes(), op, ": index must have the gradient's shape ", grad.sym_sizes(), ", got ",
                    index.sym_sizes());
  TORCH_CHECK_VALUE(mask.dim() == 1 && mask.sym_size(0) == (index.sym_numel() + 7) / 8, op, ": mask must have shape [",
                    (index.sym_numel() + 7) / 8, "], got ", mask.sym_sizes());
  TORCH_CHECK_VALUE(slope.dim() == 1 && slope.sym_size(0) <= 256, op, ": slope must have shape [at most 256], got ", slope.sym_sizes());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> qat_lookup_int8_forward(const at::Tensor& input, const at::Tensor& scale,
                                                                       const at::Tensor& zero_point, int64_t quant_min,
                                                                       int64_t quant_max, const at::Tensor& table) {
  static const auto op = find_op<decltype(qat_lookup_int8_forward)>("torchqat::_qat_lookup_int8_forward");
  return op.call(input, scale, zero_point, quant_min, quant_max, table);
}

at::Tensor qat_lookup_int8_backward(const at::Tensor& grad, const at::Tensor& index, const at::Tensor& mask, const at::Tensor& slope) {
  static const auto op = find_op<decltype(qat_lookup_int8_backward)>("torchqat::_qat_lookup_int8_backward");
  return op.call(grad, index, mask, slope);
}

at::Tensor qat_lookup_int8(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                           int64_t quant_max, const at::Tensor& table, const at::Tensor& slope) {
  static const auto op = find_op<decltype(qat_lookup_int8)>("torchqat::qat_lookup_int8");
  return op.call(input, scale, zero_point, quant_min, quant_max, table, slope);
}

}  // namespace torchqat
