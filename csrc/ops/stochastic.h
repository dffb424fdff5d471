// fake_quantize_stochastic below its public function.
#pragma once
#include "ops/blocks.h"

namespace torchqat {

at::Tensor fake_quantize_stochastic_symint(const at::Tensor& input, const at::Tensor& scale,
                                           const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                           int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset);
// -> output, mask for _fake_quantize_backward.
std::tuple<at::Tensor, at::Tensor> fake_quantize_stochastic_forward(const at::Tensor& input, const at::Tensor& scale,
                                                                    const std::optional<at::Tensor>& zero_point,
                                                                    c10::SymIntArrayRef block_size, int64_t quant_min,
                                                                    int64_t quant_max, int64_t seed, int64_t offset);

}  // namespace torchqat
