// From CUDA tensors to the convolution kernels. Shared by the deployed and the training layers.
#pragma once
#include "cuda/device.h"
#include "cpu/conv_int8.h"
#include "cuda/kernels/conv_int8.h"

namespace torchqat::cuda {

using cpu::conv::WeightLayout;

// A packed weight is the header, panels, sums and depthwise codes in one tensor; its kernels' view.
struct PackedConv {
  const uint8_t* header = nullptr;  // compared on the device; or absent
  const int8_t* panels = nullptr;
  const int32_t* sums = nullptr;
  const int8_t* depthwise = nullptr;
};
PackedConv view_packed_conv(const WeightLayout& layout, const at::Tensor& packed, bool has_header);

// int8 [out, in / groups, *kernel], contiguous, to the packed form without a header.
at::Tensor pack_conv_weight(const WeightLayout& layout, const at::Tensor& codes, Stream stream);

struct ConvTensors {
  at::Tensor x;       // dense: floats, or codes of one byte
  at::Tensor weight_scale, bias;         // float32 [out] (or one element); bias may be undefined
  at::Tensor input_scale, zero_point;    // float32, one or one per sample, flat
  at::Tensor y;       // dense, in the memory format of x
};

// A call that is ready to be launched, with its workspace.
struct ConvCall {
  Conv args;
  ConvTensors tensors;
  at::Tensor codes, sample_scale, sample_zero_point, tap_offset;
  ConvCall(const ConvArgs& a, const WeightLayout& layout, const PackedConv& packed, ConvTensors t);
};

}  // namespace torchqat::cuda
