// Shapes of the two ops that the 8-bit float linear layers are made of.
#include "ops/linear_float8.h"
#include "ops/linear_int8.h"

namespace torchqat {
namespace {

Float8Rows float8_rows_meta(const at::Tensor& input, const OptionalTensor& scale, std::string_view format, bool masked) {
  check_float8_rows(input, scale, format);
  const c10::SymInt rows = row_count(input), columns = input.sym_size(-1);
  const auto bytes = input.options().dtype(at::kByte);
  return {at::empty_symint({rows, columns}, bytes),
          at::empty_symint({scale.has_value() ? scale->sym_numel() : rows}, input.options().dtype(at::kFloat)),
          at::empty_symint({masked ? (rows * columns + 7) / 8 : c10::SymInt(0)}, bytes)};
}

at::Tensor float8_multiply_meta(const at::Tensor& codes, const at::Tensor&, std::string_view, const at::Tensor& weight_codes,
                                const at::Tensor&, std::string_view, const OptionalTensor&, at::ScalarType dtype) {
  return at::empty_symint({codes.sym_size(0), weight_codes.sym_size(0)}, codes.options().dtype(dtype));
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("_float8_rows", &float8_rows_meta);
  m.impl("_float8_multiply", &float8_multiply_meta);
}

}  // namespace
}  // namespace torchqat
