// Checks of observe_histogram_ and qparams_from_histogram.
#pragma once
#include "ops/blocks.h"

namespace torchqat {

void check_observe_histogram(const at::Tensor& input, const at::Tensor& histogram, const at::Tensor& bound,
                             const at::Tensor& min_val, const at::Tensor& max_val, const at::Tensor& nonfinite_count);
void check_qparams_from_histogram(const at::Tensor& histogram, const at::Tensor& bound, const at::Tensor& min_val,
                                  const at::Tensor& max_val, int64_t quant_min, int64_t quant_max, bool symmetric,
                                  c10::string_view method, double percentile);

}  // namespace torchqat
