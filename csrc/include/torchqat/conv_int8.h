// Convolution on 8-bit integers.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "torchqat/export.h"

namespace torchqat {

// codes: int8 [out, in / groups, *kernel], one to three kernel dimensions -> 1-D uint8, for every CPU path.
TORCHQAT_API at::Tensor conv_int8_pack(const at::Tensor& codes, int64_t groups);
TORCHQAT_API at::Tensor conv_int8_unpack(const at::Tensor& packed_weight);

// input: [N, in, *spatial]; weight_scale and bias: [out]; input_scale and input_zero_point: one element, or one for each
// sample. y = float32(sum of (q_x - z_x) * q_w) * (s_x * s_w) + b; padding is the code z_x. A sample with a NaN is NaN.
TORCHQAT_API at::Tensor conv_int8(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                  const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                  const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                                  at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                                  at::IntArrayRef dilation, int64_t groups);

// The same convolution with codes for a next layer as its result, clamp(rint(y / output_scale) + output_zero_point) of y, or
// of max(y, 0): uint8 for a range from 0 up, int8 for one that goes below. A NaN becomes the zero point. Both ops also take
// codes as input.
TORCHQAT_API at::Tensor conv_int8_codes(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                        const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                        const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                                        at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                                        at::IntArrayRef dilation, int64_t groups, bool relu, const at::Tensor& output_scale,
                                        const at::Tensor& output_zero_point, int64_t output_quant_min,
                                        int64_t output_quant_max);

}  // namespace torchqat
