// Checks of choose_qparams, qparams_from_range and observe_minmax_, and their results' dtype.
#pragma once
#include "ops/blocks.h"

namespace torchqat {

// float64 for float64, float32 otherwise.
inline at::ScalarType compute_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// A grid whose scale can come from the data.
void check_chosen_grid(const char* op, int64_t quant_min, int64_t quant_max, bool symmetric);
SymSizes check_choose_qparams(const char* op, const at::Tensor& input, c10::SymIntArrayRef block_size, int64_t quant_min,
                              int64_t quant_max, bool symmetric);
void check_qparams_from_range(const at::Tensor& min_val, const at::Tensor& max_val, int64_t quant_min, int64_t quant_max,
                              bool symmetric);
void check_observe_minmax(const at::Tensor& input, const at::Tensor& min_val, const at::Tensor& max_val,
                          const at::Tensor& nonfinite_count, c10::SymIntArrayRef block_size, double averaging_constant,
                          int64_t quant_min, int64_t quant_max, bool symmetric);

std::tuple<at::Tensor, at::Tensor> observe_minmax_symint(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                         at::Tensor& nonfinite_count, c10::SymIntArrayRef block_size,
                                                         double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                         bool symmetric);

}  // namespace torchqat
