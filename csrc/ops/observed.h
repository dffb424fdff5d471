// fake_quantize_observed and merge_range_ below their public functions.
#pragma once
#include "ops/blocks.h"

namespace torchqat {

SymSizes check_fake_quantize_observed(const at::Tensor& input, const at::Tensor& scale,
                                      const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                      int64_t quant_min, int64_t quant_max);
void check_merge_range(const at::Tensor& min_val, const at::Tensor& max_val, const at::Tensor& nonfinite_count,
                       const at::Tensor& new_min, const at::Tensor& new_max, const at::Tensor& new_nonfinite,
                       double averaging_constant, int64_t quant_min, int64_t quant_max, bool symmetric);

using Observed = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using ObservedWithMask = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Observed fake_quantize_observed_symint(const at::Tensor& input, const at::Tensor& scale,
                                       const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                       int64_t quant_min, int64_t quant_max);
// The mask comes last.
ObservedWithMask fake_quantize_observed_forward(const at::Tensor& input, const at::Tensor& scale,
                                                const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                                int64_t quant_min, int64_t quant_max);

}  // namespace torchqat
