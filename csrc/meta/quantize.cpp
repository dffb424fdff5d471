// Shapes of quantize and dequantize.
#include "ops/torch_headers.h"

#include "ops/quantize.h"

namespace torchqat {
namespace {

at::Tensor quantize_meta(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::ScalarType dtype) {
  check_quantize(input, scale, zero_point, block_size, quant_min, quant_max, dtype);
  return at::empty_like(input, input.options().dtype(dtype));
}

at::Tensor dequantize_meta(const at::Tensor& codes, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                           c10::SymIntArrayRef block_size, at::ScalarType dtype) {
  check_dequantize(codes, scale, zero_point, block_size, dtype);
  return at::empty_like(codes, codes.options().dtype(dtype));
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("quantize", &quantize_meta);
  m.impl("dequantize", &dequantize_meta);
}

}  // namespace
}  // namespace torchqat
