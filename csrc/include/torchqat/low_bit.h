// Scales for grids of one to a few bits, and binary and ternary fake quantisation. block_size as in fake_quantize.h.
#pragma once
#include <tuple>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// Scale and zero point with the least squared error of fake_quantize on this grid: a search over parts of the range of each
// block, refined by least squares. Non-finite values are left out. No gradient.
TORCHQAT_API std::tuple<at::Tensor, at::Tensor> choose_qparams_mse(const at::Tensor& input, at::IntArrayRef block_size,
                                                                   int64_t quant_min, int64_t quant_max, bool symmetric);

// mean|x| of each block (XNOR-Net). No gradient.
TORCHQAT_API at::Tensor choose_scale_binary(const at::Tensor& input, at::IntArrayRef block_size);

// choose_qparams_mse on {-1, 0, 1}; TWN's scale is among the candidates. No gradient.
TORCHQAT_API at::Tensor choose_scale_ternary(const at::Tensor& input, at::IntArrayRef block_size);

// -scale below zero, +scale from zero on (both zeros); NaN stays NaN. The gradient passes everywhere.
TORCHQAT_API at::Tensor fake_quantize_binary(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size);

// fake_quantize on {-1, 0, 1}.
TORCHQAT_API at::Tensor fake_quantize_ternary(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size);

// int8 codes of fake_quantize_binary: -1 or 1 (1 for NaN); dequantize(codes, scale) gives its values.
TORCHQAT_API at::Tensor quantize_binary(const at::Tensor& input);

}  // namespace torchqat
