// The fake-quant family below its public functions: checks, and the ops that carry what backward needs.
#pragma once
#include "ops/torch_headers.h"

#include "ops/blocks.h"

namespace torchqat {

void check_fake_quantize(const char* op, const at::Tensor& input, const at::Tensor& scale,
                         const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size, int64_t quant_min,
                         int64_t quant_max);
void check_fake_quantize_out(const at::Tensor& input, const at::Tensor& out);
void check_fake_quantize_backward(const at::Tensor& grad, const at::Tensor& mask, at::IntArrayRef order);

// Absmax scales on a grid that reaches as far down as up: no finite value clips, so nothing need be saved. fl(max / s) is
// within quant_max * 2^-22 of quant_max, far from the rounding tie at quant_max + 1/2.
inline bool never_clips(int64_t quant_min, int64_t quant_max, bool symmetric) {
  return symmetric && -quant_min >= quant_max && quant_max <= (int64_t{1} << 20);
}

at::Tensor fake_quantize_symint(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max);
std::tuple<at::Tensor, at::Tensor> fake_quantize_forward(const at::Tensor& input, const at::Tensor& scale,
                                                         const std::optional<at::Tensor>& zero_point,
                                                         c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max);
at::Tensor fake_quantize_backward(const at::Tensor& grad, const at::Tensor& mask, at::IntArrayRef order);
at::Tensor fake_quantize_dynamic_symint(const at::Tensor& input, c10::SymIntArrayRef block_size, int64_t quant_min,
                                        int64_t quant_max, bool symmetric);
// save_mask false: an empty mask. The third result counts the non-finite elements.
std::tuple<at::Tensor, at::Tensor, at::Tensor> fake_quantize_dynamic_forward(const at::Tensor& input,
                                                                             c10::SymIntArrayRef block_size, int64_t quant_min,
                                                                             int64_t quant_max, bool symmetric, bool save_mask);

}  // namespace torchqat
