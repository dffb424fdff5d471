// Shapes of linear_block_float.
#include "ops/linear_block_float.h"

namespace torchqat {
namespace {

at::Tensor linear_block_float_meta(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                   std::string_view input_format, std::string_view weight_format, const OptionalTensor& unrounded,
                                   std::optional<at::ScalarType> dtype) {
  const auto sizes = check_linear_block_float(input, weight, bias, input_format, weight_format, unrounded);
  return at::empty_symint(sizes, input.options().dtype(dtype.value_or(input.scalar_type())));
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) { m.impl("linear_block_float", &linear_block_float_meta); }

}  // namespace
}  // namespace torchqat
