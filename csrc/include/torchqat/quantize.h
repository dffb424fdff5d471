// Integer codes of a tensor and back: q = clamp(rint(x / s) + z, quant_min, quant_max), x = (q - z) * s. No gradient.
#pragma once
#include <optional>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// dtype int8, uint8, int16 or int32; NaN gets the code z.
TORCHQAT_API at::Tensor quantize(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                 at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::ScalarType dtype);

// dtype float32, float64, bfloat16 or float16.
TORCHQAT_API at::Tensor dequantize(const at::Tensor& codes, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                   at::IntArrayRef block_size, at::ScalarType dtype);

}  // namespace torchqat
