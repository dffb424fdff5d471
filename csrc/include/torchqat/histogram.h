// Histogram observers: exact counts over [-bound, bound), bound a power of two that doubles as the data asks for it.
#pragma once
#include <tuple>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// histogram int64 [bins], bins a power of two >= 16; bound float32, one element, starts at 0; min_val and max_val floating,
// one element, start at +inf and -inf; nonfinite_count int64. Counts in float32. Returns how many finite values came (int64, 0-d).
TORCHQAT_API at::Tensor observe_histogram_(const at::Tensor& input, at::Tensor& histogram, at::Tensor& bound,
                                           at::Tensor& min_val, at::Tensor& max_val, at::Tensor& nonfinite_count);

// method "percentile" (percentile in (50, 100]: symmetric +-v that holds so much, otherwise so much below hi and above lo) or
// "mse" (the range of least squared error). -> scale (float32, 0-d), zero_point (int32, 0-d).
TORCHQAT_API std::tuple<at::Tensor, at::Tensor> qparams_from_histogram(const at::Tensor& histogram, const at::Tensor& bound,
                                                                       const at::Tensor& min_val, const at::Tensor& max_val,
                                                                       int64_t quant_min, int64_t quant_max, bool symmetric,
                                                                       c10::string_view method, double percentile = 99.99);

}  // namespace torchqat
