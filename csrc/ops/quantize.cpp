// Schemas, checks and C++ entry points of quantize and dequantize.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/quantize.h"
#include "torchqat/quantize.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "quantize(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, int quant_max, "
      "ScalarType dtype) -> Tensor");
  m.def("dequantize(Tensor codes, Tensor scale, Tensor? zero_point, SymInt[] block_size, ScalarType dtype) -> Tensor");
}

namespace {

bool is_code(at::ScalarType type) {
  return type == at::kChar || type == at::kByte || type == at::kShort || type == at::kInt;
}

std::pair<int64_t, int64_t> limits(at::ScalarType type) {
  switch (type) {
    case at::kChar: return {-128, 127};
    case at::kByte: return {0, 255};
    case at::kShort: return {-32768, 32767};
    default: return {std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()};
  }
}

}  // namespace

void check_quantize(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                    c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::ScalarType dtype) {
  check_floating("quantize", "input", input);
  check_grid("quantize", quant_min, quant_max);
  TORCH_CHECK_TYPE(is_code(dtype), "quantize: dtype must be int8, uint8, int16 or int32, got ", dtype_name(dtype));
  const auto [low, high] = limits(dtype);
  TORCH_CHECK_VALUE(low <= quant_min && quant_max <= high, "quantize: quant_min and quant_max must fit ", dtype_name(dtype), ", got ",
                    quant_min, " and ", quant_max);
  check_qparams("quantize", input, scale, zero_point, block_size);
}

void check_dequantize(const at::Tensor& codes, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      c10::SymIntArrayRef block_size, at::ScalarType dtype) {
  TORCH_CHECK_TYPE(is_code(codes.scalar_type()), "dequantize: codes must be int8, uint8, int16 or int32, got ",
                   dtype_name(codes.scalar_type()));
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf,
                   "dequantize: dtype must be float32, float64, bfloat16 or float16, got ", dtype_name(dtype));
  check_qparams("dequantize", codes, scale, zero_point, block_size);
}

at::Tensor quantize(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                    at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::ScalarType dtype) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::SymIntArrayRef,
                               int64_t, int64_t, at::ScalarType);
  static const auto op = find_op<Signature>("torchqat::quantize");
  return op.call(input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, dtype);
}

at::Tensor dequantize(const at::Tensor& codes, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      at::IntArrayRef block_size, at::ScalarType dtype) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::SymIntArrayRef,
                               at::ScalarType);
  static const auto op = find_op<Signature>("torchqat::dequantize");
  return op.call(codes, scale, zero_point, c10::fromIntArrayRefSlow(block_size), dtype);
}

}  // namespace torchqat
