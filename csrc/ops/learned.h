// fake_quantize_learned and fake_quantize_pact below their public functions: checks and the backward ops.
#pragma once
#include "ops/blocks.h"

namespace torchqat {

void check_fake_quantize_learned(const char* op, const at::Tensor& input, const at::Tensor& scale,
                                 const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                 int64_t quant_min, int64_t quant_max, double grad_scale);
void check_fake_quantize_learned_backward(const char* op, const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
                                          const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                          int64_t quant_min, int64_t quant_max, double grad_scale);

at::Tensor fake_quantize_learned_symint(const at::Tensor& input, const at::Tensor& scale,
                                        const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                        int64_t quant_min, int64_t quant_max, double grad_scale);
// -> input, scale and zero_point gradients; the last is empty where zero_point is absent or holds integers.
std::tuple<at::Tensor, at::Tensor, at::Tensor> fake_quantize_learned_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
    c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, double grad_scale);

at::Tensor fake_quantize_pact_symint(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size,
                                     int64_t quant_min, int64_t quant_max, double grad_scale);
// -> input and scale gradients.
std::tuple<at::Tensor, at::Tensor> fake_quantize_pact_backward(const at::Tensor& grad, const at::Tensor& input,
                                                               const at::Tensor& scale, c10::SymIntArrayRef block_size,
                                                               int64_t quant_min, int64_t quant_max, double grad_scale);

inline bool learns_zero_point(const std::optional<at::Tensor>& zero_point) {
  return zero_point.has_value() && at::isFloatingType(zero_point->scalar_type());
}

}  // namespace torchqat
