// Gradients of a depthwise convolution (one input channel for each output channel) from codes, in float32: memory decides
// here, not arithmetic.
//
//   dx[p] = sum over taps of dy * (q_w * s_w), in the order of taps        dw[tap] = sum over pixels of (q_x - z_x) * dy
//
// each step a fused multiply-add. A unit is a sample's block of kDepthwiseBlock channels. Sums over some pixels of a row or a few rows
// are float32, over the sample double.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels/conv_plan.h"

namespace torchqat::cpu::conv {

constexpr int64_t kDepthwiseBlock = 64;

// Tap `tap` of an input coordinate meets output coordinate `out`.
struct Meeting {
  int64_t tap = 0, out = 0;
};

// Input columns first, first + step, ...: all meet the same taps, each one output further than the one before.
struct Stretch {
  int64_t first = 0, step = 1, count = 0;
};

struct DepthwiseGradPlan {
  int64_t channels = 1, taps = 1;
  Dims in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1};
  std::vector<std::vector<Meeting>> along[3];  // [in[d]]
  std::vector<Stretch> across;                 // of a row of input

  int64_t in_pixels() const { return in[0] * in[1] * in[2]; }
  int64_t out_pixels() const { return out[0] * out[1] * out[2]; }
  int64_t blocks() const { return (channels + kDepthwiseBlock - 1) / kDepthwiseBlock; }
  // Scratch of a unit: lists and row sums; with channels first, also pixels-first copies of the block.
  int64_t scratch_bytes(bool channels_last) const;
};

DepthwiseGradPlan make_depthwise_grad_plan(const Plan& forward);

struct DepthwiseGradTask {
  const float* grad = nullptr;    // this sample's, dense, channels last or first
  const uint8_t* codes = nullptr;
  bool channels_last = true;
  float zero_point = 0;           // as stored
  const float* weight = nullptr;  // [taps][blocks * 64], dequantised, zeros beyond the channels
  float* dx = nullptr;            // this sample's, or null
  const uint8_t* mask = nullptr;  // this sample's bits, or null; applied if channels % 16 == 0 or channels first
  double* sums = nullptr;         // this sample's [taps][blocks * 64], or null
  double* grad_sums = nullptr;    // this sample's [blocks * 64] for the sum of grad over its pixels, or null
};

struct DepthwiseGradKernels {
  void (*unit)(const DepthwiseGradPlan& plan, const DepthwiseGradTask& task, int64_t block, uint8_t* scratch);
};

extern const DepthwiseGradKernels depthwise_grad_scalar, depthwise_grad_avx2, depthwise_grad_avx512;

}  // namespace torchqat::cpu::conv
