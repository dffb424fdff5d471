// Linear layers on 8-bit codes: deployed with packed weights, and in training.
#pragma once
#include <ATen/core/Tensor.h>

#include <torchqat/export.h>

namespace torchqat {

// codes int8 [N, K] -> packed weight, 1-D uint8, one layout for all CPU paths; and back.
TORCHQAT_API at::Tensor linear_int8_pack(const at::Tensor& codes);
TORCHQAT_API at::Tensor linear_int8_unpack(const at::Tensor& packed_weight);

// y = float32(sum over k of (q_x - z_x) * q_w) * (s_x * s_w) + b, q_x = clamp(rint(x / s_x) + z_x, quant_min, quant_max).
// input floating [..., K]; weight_scale [N]; bias [N] or absent; input_scale and input_zero_point: one element, or one
// per row of input. [quant_min, quant_max] lies within [-128, 127] or [0, 255]. Returns [..., N] in input's dtype.
TORCHQAT_API at::Tensor linear_int8(const at::Tensor& input, const at::Tensor& packed_weight,
                                    const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                    const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                    int64_t quant_min, int64_t quant_max);

// The same with scale and zero point from the input (choose_qparams): per row, or for the whole tensor.
TORCHQAT_API at::Tensor linear_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight,
                                            const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                            bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric);

}  // namespace torchqat
