// The low-bit ops below their public functions: checks.
#pragma once
#include "ops/blocks.h"

namespace torchqat {

SymSizes check_choose_scale(const char* op, const at::Tensor& input, c10::SymIntArrayRef block_size);
void check_fake_quantize_binary(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size);

at::Tensor fake_quantize_binary_symint(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size);

}  // namespace torchqat
