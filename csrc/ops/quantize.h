// Checks of quantize and dequantize.
#pragma once
#include "ops/blocks.h"

namespace torchqat {

void check_quantize(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                    c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::ScalarType dtype);
void check_dequantize(const at::Tensor& codes, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      c10::SymIntArrayRef block_size, at::ScalarType dtype);

}  // namespace torchqat
