// Training layers: tensors quantised to codes that are kept for backward, and the masks of those codes applied to gradients.
#pragma once
#include "cuda/device.h"
#include "cuda/kernels/quantize_lines.h"

namespace torchqat::cuda {

// Weight [rows, ...] to int8 codes of its shape and bits [rows, ceil(columns / 8)]. scale: float32 [rows, groups], contiguous;
// `group` columns share one.
struct WeightCodes {
  at::Tensor codes, mask;
};
WeightCodes quantize_weight_lines(const at::Tensor& weight, const at::Tensor& scale, int64_t group, int64_t quant_min,
                                  int64_t quant_max, Stream stream);

// values where the bit of the row is set, else 0, as `type`; values are `rows` rows in memory order and keep their strides. Without
// a mask only the type changes.
at::Tensor apply_line_mask(const at::Tensor& values, const std::optional<at::Tensor>& mask, int64_t rows, at::ScalarType type,
                           Stream stream);

}  // namespace torchqat::cuda
