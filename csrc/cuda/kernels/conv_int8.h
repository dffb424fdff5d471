// Integer convolution on the device, over the CPU's packed weights (cpu/kernels/conv_plan.h): samples to padded planes of u8 codes,
// then an implicit GEMM whose rows are output pixels. No torch, no word back to the host: whatever is invalid gives NaN.
#pragma once
#include "cuda/kernels/affine.h"
#include "cuda/kernels/int8_gemm.h"

namespace torchqat::cuda {

struct Conv {
  // Geometry; spatial sizes are (depth, height, width).
  int64_t samples = 0, channels = 0, out_channels = 0;
  int64_t in[3], padded[3], padding[3], stride[3], dilation[3], kernel[3], out[3];
  int64_t planes = 1, plane_in = 1, plane_out = 1, panels = 1, chunks = 1, k_pad = 64, run_pad = 64, run_len = 1;
  bool patch = false, depthwise = false, channels_last = true;
  // Tensors.
  const void* input = nullptr;          // dense, channels last or first, of `type`; or absent
  Float type = Float::f32;              // f32, bf16 or f16
  const uint8_t* input_codes = nullptr; // instead: u8 codes in stored form, or two's complement where `flip`
  bool flip = false;
  const float* input_scale = nullptr;   // stride apart: 0 or 1 per sample
  const float* input_zero_point = nullptr;
  int64_t scale_stride = 0, zero_point_stride = 0;
  int32_t quant_min = 0, quant_max = 255, shift = 0;
  const uint8_t* packed = nullptr;      // begins with a header that must equal `header`; or absent: made just now
  HeaderWords header{};
  const int8_t* panel_codes = nullptr;      // [planes][panels][k_pad / 4][64][4]
  const int32_t* sums = nullptr;            // [planes][panels][chunks][64]
  const int8_t* depthwise_codes = nullptr;  // [taps][channels]
  const float* weight_scale = nullptr;
  int64_t weight_stride = 0;
  const float* bias = nullptr;              // or absent: +0
  void* output = nullptr;                   // channels last or first, as the input
  Float out_type = Float::f32;              // f32, bf16 or f16
  // Codes instead of floats: one byte each, of the grid below; what would be NaN is the zero point.
  bool to_codes = false, relu = false;
  const float* output_scale = nullptr;
  const float* output_zero_point = nullptr;
  int32_t output_min = 0, output_max = 255;
  // Workspace.
  uint8_t* codes = nullptr;             // [samples][planes][padded pixels][plane_in]
  int64_t plane_bytes = 0, sample_bytes = 0;
  float* sample_scale = nullptr;        // [samples]; NaN where anything of the sample is invalid
  int32_t* sample_zero_point = nullptr; // [samples], stored form
  int64_t* tap_offset = nullptr;        // [k_pad], bytes from a pixel's first code
};
void conv_int8(const Conv& args, Stream stream);

// Fills sample_scale and sample_zero_point and the tap offsets; conv_int8 begins with it.
void conv_prepare(const Conv& args, Stream stream);
// What conv_int8 does after that; in between, kept codes may poison sample_scale.
void conv_multiply(const Conv& args, Stream stream);

// Codes int8 [out, in / groups, taps] to the packed form's panels, sums and depthwise codes (all of them written).
struct ConvPack {
  const int8_t* codes = nullptr;
  int64_t groups = 1, group_in = 1, group_out = 1, merge = 1;
  int64_t kernel[3];
  int64_t planes = 1, plane_in = 1, plane_out = 1, panels = 1, chunks = 1, k_pad = 64, run_pad = 64, run_len = 1;
  bool patch = false, depthwise = false;
  int8_t* panel_codes = nullptr;
  int32_t* sums = nullptr;
  int8_t* depthwise_codes = nullptr;
};
void conv_pack(const ConvPack& args, Stream stream);

}  // namespace torchqat::cuda
