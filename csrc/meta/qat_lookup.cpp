// Shapes of the training form of element-wise functions.
#include "ops/qat_lookup.h"

namespace torchqat {
namespace {

at::Tensor lookup(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                  const at::Tensor& table, const at::Tensor& slope) {
  check_qat_lookup(input, scale, zero_point, quant_min, quant_max, table);
  check_slope(slope, quant_min, quant_max);
  return at::empty_like(input);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point,
                                                       int64_t quant_min, int64_t quant_max, const at::Tensor& table) {
  check_qat_lookup(input, scale, zero_point, quant_min, quant_max, table);
  const auto bytes = input.options().dtype(at::kByte);
  return {at::empty_like(input), at::empty_like(input, bytes), at::empty_symint({(input.sym_numel() + 7) / 8}, bytes)};
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& index, const at::Tensor& mask, const at::Tensor& slope) {
  check_qat_lookup_backward(grad, index, mask, slope);
  return at::empty_like(index, grad.options());
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("qat_lookup_int8", &lookup);
  m.impl("_qat_lookup_int8_forward", &forward);
  m.impl("_qat_lookup_int8_backward", &backward);
}

}  // namespace
}  // namespace torchqat
