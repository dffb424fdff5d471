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
  const void* input = nullptr;          // dense, channels last or first, of `type`
  Float type = Float::f32;              // f32, bf16 or f16; of the output too
  const float* input_scale = nullptr;   // stride apart: 0 or 1 per sample
  const float* input_zero_point = nullptr;
  int64_t scale_stride = 0, zero_point_stride = 0;
  int32_t quant_min = 0, quant_max = 255, shift = 0;
  const uint8_t* packed = nullptr;
  HeaderWords header{};
  const int8_t* panel_codes = nullptr;      // [planes][panels][k_pad / 4][64][4]
  const int32_t* sums = nullptr;            // [planes][panels][chunks][64]
  const int8_t* depthwise_codes = nullptr;  // [taps][channels]
  const float* weight_scale = nullptr;
  int64_t weight_stride = 0;
  const float* bias = nullptr;              // or absent: +0
  void* output = nullptr;                   // as the input: channels last or first
  // Workspace.
  uint8_t* codes = nullptr;             // [samples][planes][padded pixels][plane_in]
  int64_t plane_bytes = 0, sample_bytes = 0;
  float* sample_scale = nullptr;        // [samples]; NaN where anything of the sample is invalid
  int32_t* sample_zero_point = nullptr; // [samples], stored form
  int64_t* tap_offset = nullptr;        // [k_pad], bytes from a pixel's first code
};
void conv_int8(const Conv& args, Stream stream);

}  // namespace torchqat::cuda
