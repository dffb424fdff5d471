// Arguments of the integer convolutions and their checks, shared by Meta and the device kernels.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

// What the convolution ops have in common, besides their tensors.
struct ConvArgs {
  const char* op;
  int64_t quant_min, quant_max;
  at::IntArrayRef kernel_size, stride, padding, dilation;
  int64_t groups;
};

void check_conv_int8(const ConvArgs& args, const at::Tensor& input, const at::Tensor& weight_scale,
                     const std::optional<at::Tensor>& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point);
void check_conv_input_dtype(const char* op, const at::Tensor& input);
// The deployed ops also take codes: uint8 of a grid from 0 up, int8 of one that goes below.
void check_conv_input(const ConvArgs& args, const at::Tensor& input);
void check_conv_output_grid(const char* op, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max);
void check_conv_codes(const at::Tensor& codes, int64_t groups);
int64_t conv_packed_bytes(const at::Tensor& codes, int64_t groups);

// [N, out, *spatial], after checking that no size is below 1.
c10::SymDimVector conv_output_sizes(const ConvArgs& args, const at::Tensor& input, const c10::SymInt& out_channels);

}  // namespace torchqat
