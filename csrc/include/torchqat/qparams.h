// Scales and zero points from data. symmetric: s = max|x| / quant_max, z = 0; affine: s = (hi - lo) / (quant_max - quant_min),
// z = clamp(rint(quant_min - lo / s)) with lo = min(x, 0), hi = max(x, 0). Non-finite values are left out and counted.
#pragma once
#include <tuple>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// -> scale (float32, float64 for float64), zero_point (int32), each ceil(dim / block) per dimension; {} gives 0-d.
TORCHQAT_API std::tuple<at::Tensor, at::Tensor> choose_qparams(const at::Tensor& input, at::IntArrayRef block_size,
                                                               int64_t quant_min, int64_t quant_max, bool symmetric);

// From ranges seen elsewhere, any shape; entries with min > max (nothing seen) give scale 1, zero point clamp(0).
TORCHQAT_API std::tuple<at::Tensor, at::Tensor> qparams_from_range(const at::Tensor& min_val, const at::Tensor& max_val,
                                                                   int64_t quant_min, int64_t quant_max, bool symmetric);

// Widens min_val and max_val (start: +inf, -inf) by the input: averaging_constant 1 keeps the running extremes, below 1 an
// exponential average that the first range sets. nonfinite_count (int64, one element) grows by what was left out.
// Returns the scale and zero point of the new state as fresh tensors.
TORCHQAT_API std::tuple<at::Tensor, at::Tensor> observe_minmax_(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                                at::Tensor& nonfinite_count, at::IntArrayRef block_size,
                                                                double averaging_constant, int64_t quant_min,
                                                                int64_t quant_max, bool symmetric);

}  // namespace torchqat
