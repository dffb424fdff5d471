// Linear layers on 8-bit floats (e4m3fn, e5m2): deployed, and in training.
#pragma once
#include <optional>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// y = float32(sum over k of q_x * q_w) * (s_x * s_w) + b, q_x = round(x / s_x) to input_format, q_w from weight_codes.
// input float32, bfloat16 or float16 [..., K]; weight_codes uint8 [N, K], the bit patterns of weight_format; weight_scale one
// element or N; bias [N] or absent; input_scale one element or one per row, absent: max|x| of each row / the format's largest value.
// Formats: e4m3fn and e5m2. The products are exact; the order and, on FP8 tensor cores, the precision of the sum's intermediate
// results are the device's. Returns [..., N] in input's dtype.
TORCHQAT_API at::Tensor linear_float8(const at::Tensor& input, const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                                      const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& input_scale,
                                      std::string_view input_format, std::string_view weight_format);

// The training layer: the same product of input and weight (floating [N, K]), both rounded here; an absent weight_scale is taken
// from each row of the weight. Straight-through gradient where |x / s| <= the format's largest value, from the saved codes (one byte
// per element) and bit masks; backward as in qat_linear_int8 ("int16" computes in float32; "auto": bfloat16 on CUDA, else float32).
TORCHQAT_API at::Tensor qat_linear_float8(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                          const std::optional<at::Tensor>& input_scale,
                                          const std::optional<at::Tensor>& weight_scale, std::string_view input_format,
                                          std::string_view weight_format, std::string_view backward = "auto");

}  // namespace torchqat
