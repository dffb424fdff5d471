// Fake quantisation on an integer grid: y = (clamp(rint(x / s) + z, quant_min, quant_max) - z) * s.
// block_size: one entry per input dimension, elements that share a scale, -1 = the whole dimension; {} = the whole tensor.
// scale and zero_point have ceil(dim / block) entries per dimension.
#pragma once
#include <optional>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// Straight-through gradient to the input only; scale and zero_point are constants.
TORCHQAT_API at::Tensor fake_quantize(const at::Tensor& input, const at::Tensor& scale,
                                      const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                      int64_t quant_min, int64_t quant_max);

// Into a given tensor of the input's sizes and dtype; no autograd.
TORCHQAT_API at::Tensor& fake_quantize_out(at::Tensor& out, const at::Tensor& input, const at::Tensor& scale,
                                           const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                           int64_t quant_min, int64_t quant_max);

// Scales from the data (choose_qparams), constants to autograd.
TORCHQAT_API at::Tensor fake_quantize_dynamic(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min,
                                              int64_t quant_max, bool symmetric);

}  // namespace torchqat
