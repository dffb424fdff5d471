// Fake quantisation with learned scale and zero point (LSQ, LSQ+): fake_quantize's values, gradients to all three.
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

}  // namespace torchqat
