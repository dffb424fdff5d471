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

// The training layer: input and weight (floating [N, K]) are quantised to codes, y is linear_int8 of them bit for bit.
// weight_scale: one element or N; absent: from the weight, symmetric, one per row. The straight-through gradient works from
// the saved codes (one byte per element) and bit masks; backward: "float32", "bfloat16" (gradients rounded to bfloat16),
// "int16" (gradients as two 8-bit limbs; the weight's from up to 8 rows in float32, which is no slower) or "auto". With
// input_learned / weight_learned the scales (and a floating zero point) get gradients by the LSQ rule of
// fake_quantize_learned, multiplied by the grad scales. packed_weight and weight_mask: what qat_linear_int8_pack made of the
// same weight and weight_scale, to be used instead of packing again.
TORCHQAT_API at::Tensor qat_linear_int8(const at::Tensor& input, const at::Tensor& weight,
                                        const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                        const at::Tensor& input_zero_point, const std::optional<at::Tensor>& weight_scale,
                                        int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                                        int64_t weight_quant_max, bool input_learned = false,
                                        bool weight_learned = false, double input_grad_scale = 1.0,
                                        double weight_grad_scale = 1.0, c10::string_view backward = "auto",
                                        const std::optional<at::Tensor>& packed_weight = std::nullopt,
                                        const std::optional<at::Tensor>& weight_mask = std::nullopt);

// A weight quantised and packed for several calls of qat_linear_int8: packed weight, bit mask of what lies within the grid,
// and the scale, which is the one given or, where absent, comes from the weight.
TORCHQAT_API std::tuple<at::Tensor, at::Tensor, at::Tensor> qat_linear_int8_pack(const at::Tensor& weight,
                                                                                 const std::optional<at::Tensor>& scale,
                                                                                 int64_t quant_min, int64_t quant_max,
                                                                                 bool learned = false);

// qat_linear_int8 with the input's scale from observe_minmax_ of the whole input, which updates the statistics in the same
// call, and the weight's scale from the weight.
TORCHQAT_API at::Tensor qat_linear_int8_observed(const at::Tensor& input, const at::Tensor& weight,
                                                 const std::optional<at::Tensor>& bias, at::Tensor& min_val,
                                                 at::Tensor& max_val, at::Tensor& nonfinite_count,
                                                 double averaging_constant, int64_t input_quant_min,
                                                 int64_t input_quant_max, bool input_symmetric, int64_t weight_quant_min,
                                                 int64_t weight_quant_max, c10::string_view backward = "auto");

}  // namespace torchqat
