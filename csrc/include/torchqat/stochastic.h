// Fake quantisation with stochastic rounding: unbiased inside the grid, reproducible from seed and offset.
#pragma once
#include <optional>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// floor(x / s) or one higher, with the probability of the fraction; then as fake_quantize, straight-through gradient
// included. The random number of an element depends on seed, offset and its place in memory order only: use a new offset
// for every call.
TORCHQAT_API at::Tensor fake_quantize_stochastic(const at::Tensor& input, const at::Tensor& scale,
                                                 const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                                 int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset);

}  // namespace torchqat
