// Gradients of an integer convolution with the output gradient in bfloat16: code differences are exact in bfloat16, so only
// dy * s_w is rounded, and products are summed in float32.
//
//   dx = conv(dy * s_w, rotated weight codes)       dw[tap] = sum over pixels of (q_x - z_x) * (dy * s_w), over s_w in the end
//
// The geometry is that of the integer kernels (conv_plan.h, conv_grad.h): to a plan of dx a bfloat16 channel is two channels of a
// byte each, and its weights are packed as such; a plan of dw counts elements, of two bytes here.
#pragma once
#include <cstdint>

#include "cpu/kernels/conv_grad.h"

namespace torchqat::cpu::conv {

struct Bf16WeightTask {
  const uint8_t* codes = nullptr;   // from spread
  const uint8_t* panels = nullptr;  // from panels
  const Run* runs = nullptr;        // those of the plan, in bytes: bf16_runs
  float scale = 1;                  // of the input
  float* sums = nullptr;            // [taps][panels][block_in][64], added to
};

struct Bf16Kernels {
  // dy times its channel's scale to rows [begin, end) of the padded planes, zeros around it. scratch: bf16_pad_scratch_bytes.
  void (*pad)(const Plan& plan, const GradSource& source, int64_t begin, int64_t end, uint8_t* planes, uint8_t* scratch);
  // Strips [begin, end) of plan.strips: dx of a sample, dense. planes: the first tap of the first pixel. scratch:
  // strip_scratch_bytes.
  void (*strips)(const Plan& plan, const uint8_t* planes, const uint8_t* packed, bool channels_last, int64_t begin, int64_t end, float* out,
                 uint8_t* scratch);
  // Code differences of a sample, channels-first phases with a border of zeros; 2 * codes_bytes.
  void (*spread)(const Plan& forward, const WeightGradPlan& plan, const Source& source, uint8_t* codes);
  // Padded dy to panels [begin, end) of [panels][k / 2][64][2].
  void (*panels)(const Plan& forward, const Plan& input_grad, const WeightGradPlan& plan, const uint8_t* planes, int64_t begin, int64_t end,
                 uint8_t* panels);
  // Units [begin, end) of plan.units. scratch: weight_grad_scratch_bytes.
  void (*weight_grad)(const Plan& forward, const WeightGradPlan& plan, const Bf16WeightTask& task, int64_t begin, int64_t end, uint8_t* scratch);
};

inline int64_t bf16_pad_scratch_bytes(const Plan& plan) { return plan.weight.in_channels() / 2 * 16 * 4 + 64; }

Bf16Kernels bf16_kernels_avx512bf16();
Bf16Kernels bf16_kernels_amx();

}  // namespace torchqat::cpu::conv
