// Integer forms of operations without weights. Inputs are codes of their grid (uint8 of a range from 0 up, int8 of one that goes
// below) or floats, which are rounded onto it first. With output_scale the result is codes of that grid, else float32.
#pragma once
#include <ATen/core/Tensor.h>

#include <torchqat/export.h>

namespace torchqat {

// y = (q_a - z_a) * s_a + (q_b - z_b) * s_b, or max(y, 0) if relu. a, b: one shape; scales and zero points have one element.
TORCHQAT_API at::Tensor add_int8(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_scale, const at::Tensor& a_zero_point,
                                 int64_t a_quant_min, int64_t a_quant_max, const at::Tensor& b_scale,
                                 const at::Tensor& b_zero_point, int64_t b_quant_min, int64_t b_quant_max, bool relu = false,
                                 const std::optional<at::Tensor>& output_scale = {},
                                 const std::optional<at::Tensor>& output_zero_point = {}, int64_t output_quant_min = 0,
                                 int64_t output_quant_max = 255);

// Average over windows of at most 65536 elements, y = sum(q - z) * (s / count); what lies in the padding counts as 0. input:
// [N, C, *spatial]; kernel_size [] takes all of it, with *spatial' = 1.
TORCHQAT_API at::Tensor avg_pool_int8(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point,
                                      int64_t quant_min, int64_t quant_max, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                                      at::IntArrayRef padding, const std::optional<at::Tensor>& output_scale = {},
                                      const std::optional<at::Tensor>& output_zero_point = {}, int64_t output_quant_min = 0,
                                      int64_t output_quant_max = 255);

// Max-pooling of codes uint8 or int8 [N, C, *spatial]; the padding is never the largest.
TORCHQAT_API at::Tensor max_pool_codes(const at::Tensor& codes, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                                       at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode = false);

// table[q - quant_min] of every element; table: float32, uint8 or int8 [quant_max - quant_min + 1]. NaN gives NaN, or the entry of
// the zero point in a table of codes.
TORCHQAT_API at::Tensor lookup_int8(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                                    int64_t quant_max, const at::Tensor& table);

// lookup_int8 of floats for training: slope, float32 [quant_max - quant_min + 1], is the function's derivative at each code; the
// gradient of what lies beyond the grid is 0.
TORCHQAT_API at::Tensor qat_lookup_int8(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point,
                                        int64_t quant_min, int64_t quant_max, const at::Tensor& table, const at::Tensor& slope);

}  // namespace torchqat
