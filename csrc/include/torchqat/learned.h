// Fake quantisation with learned scale and zero point (LSQ, LSQ+) or clipping bound (PACT): fake_quantize's values, gradients to
// all of them. And learned scales that stay positive: LSQ's as the exponential of a parameter, TQT's as powers of two.
#pragma once
#include <optional>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// scale is clamped to the smallest normal number; zero_point (floating or integer) is rounded and clamped to the grid.
// ds = dy * ((q - z) - x / s inside, q - z where clipped), dz = -s * dy where clipped, summed per block and multiplied by
// grad_scale.
TORCHQAT_API at::Tensor fake_quantize_learned(const at::Tensor& input, const at::Tensor& scale,
                                              const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                              int64_t quant_min, int64_t quant_max, double grad_scale);

// Learned clipping bounds quant_min * scale and quant_max * scale (PACT, Choi 2018, whose alpha is quant_max * scale): dx = dy where
// quant_min <= x / s < quant_max, ds = dy * quant_max at and above, dy * quant_min below, summed per block and multiplied by
// grad_scale.
TORCHQAT_API at::Tensor fake_quantize_pact(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size,
                                           int64_t quant_min, int64_t quant_max, double grad_scale);

// base_scale * g(log_scale), g = exp below 0 and 1 + log_scale above (no step makes the scale overflow). Backward:
// grad * g'(log_scale) / base_scale, so that a step of plain SGD changes the scale by what it would change it as a parameter of its
// own (the derivative times 1 / base_scale^2).
TORCHQAT_API at::Tensor learned_scale(const at::Tensor& log_scale, const at::Tensor& base_scale);

// 2^ceil(log2(base_scale) + log2_scale), within float32's normal powers. Backward: grad * scale * ln 2 (TQT, Jain 2019).
TORCHQAT_API at::Tensor power_of_two_scale(const at::Tensor& log2_scale, const at::Tensor& base_scale);

}  // namespace torchqat
