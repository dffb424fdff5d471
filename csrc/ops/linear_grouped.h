// Checks shared by the devices of the linear ops on weights in groups.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

constexpr uint32_t kLinearGroupedVersion = 1;
// Longer groups could overflow int32 on their way to a sum that fits.
constexpr int64_t kLongestIntegerGroup = 32768;

void check_linear_grouped_pack(const at::Tensor& codes, int64_t bits, int64_t group_size);
void check_weight_scale_form(const char* op, const at::Tensor& weight_scale);

// N, from a scale of either form.
c10::SymInt grouped_out_features(const at::Tensor& weight_scale);

// All that does not depend on values; returns the output's sizes.
c10::SymDimVector check_linear_grouped(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                                       const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias);
void check_weight_zero_point(const char* op, const at::Tensor& weight_scale, const std::optional<at::Tensor>& zero_point);

}  // namespace torchqat
