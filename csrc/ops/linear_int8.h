// Checks and sizes shared by the devices of the int8 linear ops.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

constexpr uint32_t kLinearInt8Version = 1;

// Bytes after the header: sums of each column per segment of K (int32), then the panels (cpu/kernels/panels.h).
c10::SymInt linear_int8_payload(const c10::SymInt& n, const c10::SymInt& k);

void check_linear_int8_pack(const at::Tensor& codes);

// A range of codes that fits in a byte, and what is added to reach its stored (u8) form.
int64_t check_byte_range(const char* op, const char* name, int64_t quant_min, int64_t quant_max);

// All that does not depend on values; returns the output's sizes.
c10::SymDimVector check_linear_int8(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                                    const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                    int64_t quant_min, int64_t quant_max);

// The same of linear_int8_codes, whose input may be codes of one grid.
c10::SymDimVector check_linear_int8_codes(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                                          const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                          const at::Tensor& input_scale, const at::Tensor& input_zero_point, int64_t quant_min,
                                          int64_t quant_max);

// One element, or one per row of input ([..., K]).
void check_input_qparams(const char* op, const at::Tensor& input, const at::Tensor& input_scale,
                         const at::Tensor& input_zero_point);

c10::SymInt row_count(const at::Tensor& input);

}  // namespace torchqat
