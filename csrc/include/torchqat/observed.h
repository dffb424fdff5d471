// Fake quantisation that also reports the range of its input, in one pass over the data: the scale is last step's, the
// range goes into a running one for the next.
#pragma once
#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// -> fake_quantize's output (with its gradient); finite minimum and maximum per block (+inf, -inf where there is none;
// float32, float64 for float64; the shape of choose_qparams' scale); how many values were not finite (int64, 0-d).
TORCHQAT_API std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> fake_quantize_observed(
    const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
    int64_t quant_min, int64_t quant_max);

// What observe_minmax_ does with a range found elsewhere; returns the new state's scale and zero point.
TORCHQAT_API std::tuple<at::Tensor, at::Tensor> merge_range_(at::Tensor& min_val, at::Tensor& max_val,
                                                             at::Tensor& nonfinite_count, const at::Tensor& new_min,
                                                             const at::Tensor& new_max, const at::Tensor& new_nonfinite,
                                                             double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                             bool symmetric);

}  // namespace torchqat
