// Linear layers with weights of 8, 4, 3 or 2 bits in groups along K.
#pragma once
#include <ATen/core/Tensor.h>

#include <torchqat/export.h>

namespace torchqat {

// codes [N, K] (int8; uint8 for unsigned grids, which only linear_weight_only takes) -> packed weight, 1-D uint8. bits: 8, 4,
// 3 (kept in 4) or 2. Group g is k in [g * group_size, (g + 1) * group_size); the last may be short.
TORCHQAT_API at::Tensor linear_grouped_pack(const at::Tensor& codes, int64_t bits, int64_t group_size);
TORCHQAT_API at::Tensor linear_grouped_unpack(const at::Tensor& packed_weight);

// weight_scale [N, groups] -> the same values in the order the kernels read them, for layers that are packed once:
// [N / 64, groups, 64]; where N is no multiple of 64, [N, groups] with the columns lying together. Every op below takes
// either. Refuses a scale that is not finite and > 0 (the ops themselves check only the [N, groups] form).
TORCHQAT_API at::Tensor linear_grouped_pack_scale(const at::Tensor& weight_scale);

// input [..., K] float -> [..., N]. Codes q_x of the input on its grid, one scale and zero point or one per row; per group
// acc = sum((q_x - z_x) * q_w), exact; t = fma(float32(acc), s_w, t) in ascending order; y = t * s_x + b.
TORCHQAT_API at::Tensor linear_grouped_int8(const at::Tensor& input, const at::Tensor& packed_weight,
                                            const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                            const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                            int64_t quant_min, int64_t quant_max);

// The same with the input's scale and zero point from choose_qparams, per row or for all of it.
TORCHQAT_API at::Tensor linear_grouped_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight,
                                                    const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                                    bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric);

// y = x (q_w - z_w)^T s_w + b with float activations; weight_zero_point [N, groups]. Computed in float32.
TORCHQAT_API at::Tensor linear_weight_only(const at::Tensor& input, const at::Tensor& packed_weight,
                                           const at::Tensor& weight_scale,
                                           const std::optional<at::Tensor>& weight_zero_point,
                                           const std::optional<at::Tensor>& bias);

// The training layer: quantises input and weight, then computes linear_grouped_int8 on the codes: equal bits. Gradients pass
// straight through within the grids; where a scale is learned, its gradient (times grad_scale) and that of a floating
// zero point follow fake_quantize_learned. weight_scale [N, ceil(K / group_size)]. backward: "float32", "bfloat16" (float32
// where that is not native), "int16" (the gradient as 16-bit integers; the input's gradient in float32 with groups shorter
// than 16) or "auto" (bfloat16 with AMX and on CUDA, int16 with other integer products, else float32).
TORCHQAT_API at::Tensor qat_linear_grouped(const at::Tensor& input, const at::Tensor& weight,
                                           const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                           const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                                           int64_t group_size, int64_t input_quant_min, int64_t input_quant_max,
                                           int64_t weight_quant_min, int64_t weight_quant_max,
                                           bool input_learned = false, bool weight_learned = false,
                                           double input_grad_scale = 1.0, double weight_grad_scale = 1.0,
                                           c10::string_view backward = "auto");

}  // namespace torchqat
