// linear_block_float below its public function: checks, the float product, and which formats tensor cores multiply.
#pragma once
#include "ops/torch_headers.h"

#include "numerics/float_format.h"
#include "torchqat/linear_block_float.h"

namespace torchqat {

using OptionalTensor = std::optional<at::Tensor>;

// All but values; returns the output's sizes.
c10::SymDimVector check_linear_block_float(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                           std::string_view input_format, std::string_view weight_format,
                                           const OptionalTensor& unrounded);

// The format whose codes hold a block format's elements on tensor cores: e4m3fn for all MX formats but e5m2, e2m1 for nvfp4.
numerics::FloatFormat carrier_format(const char* argument, std::string_view name);

at::Tensor linear_of_values(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias, at::ScalarType dtype);

using BlockFloatGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
BlockFloatGradients linear_block_float_backward(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& weight,
                                                std::array<bool, 3> output_mask);

}  // namespace torchqat
