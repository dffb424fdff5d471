// Running ranges of observers, on tensors: taking in a new range, and the qparams of a range. CPU only.
#pragma once
#include "ops/torch_headers.h"

#include "cpu/block_view.h"

namespace torchqat::cpu {

// block_ranges into tensors of the compute type with one entry per scale.
int64_t range_tensors(const at::Tensor& dense, const Blocks& blocks, const at::Tensor& lo, const at::Tensor& hi);

// Widens min_val and max_val (any floating dtype and strides) by new_min and new_max (contiguous, compute type, as many entries).
void merge_into(const at::Tensor& min_val, const at::Tensor& max_val, const at::Tensor& new_min, const at::Tensor& new_max,
                double averaging_constant);

std::tuple<at::Tensor, at::Tensor> qparams_of_range(const at::Tensor& min_val, const at::Tensor& max_val, int64_t quant_min,
                                                    int64_t quant_max, bool symmetric);

// observe_minmax_ itself.
std::tuple<at::Tensor, at::Tensor> observe_minmax(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                  at::Tensor& nonfinite_count, at::IntArrayRef block_size,
                                                  double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                  bool symmetric);

}  // namespace torchqat::cpu
