// What the ways of differentiating a training convolution on the CPU share: its arguments, its results, and who computes them.
#pragma once
#include "cpu/conv_int8.h"
#include "cpu/kernels/conv_grad.h"

namespace torchqat::cpu::conv {

struct Backward {
  at::Tensor grad;          // float32, dense, in the format of codes
  at::Tensor codes;
  at::Tensor weight_codes;
  at::Tensor input_scale;   // float32 [1] or [N]
  at::Tensor zero_point;    // float32, as stored
  at::Tensor weight_scale;  // float32 [out]
  at::IntArrayRef stride, padding, dilation;
  int64_t groups;
  bool want_input, want_weight, want_bias;
  const uint8_t* mask = nullptr;  // of the input, where only what lies inside the grid gets a gradient
};

struct Gradients {
  at::Tensor input, weight, bias;
};

// float32 [n].
at::Tensor floats_of(const double* values, int64_t n, const at::TensorOptions& options);

// Of the CPU path in use.
GradKernels grad_kernels();

// The plan of the forward.
Plan forward_plan(const Backward& b);

// The gradient in 16-bit integers, as two limbs. Nothing where that form does not serve.
std::optional<Gradients> limbs_backward(const Backward& b);

// The same through a linear layer's products. Nothing where the convolution is no such layer or has kernels that
// serve it better.
std::optional<Gradients> pointwise_backward(const Backward& b);

// The gradient in bfloat16, products summed in float32. Nothing on CPUs without bfloat16 products.
std::optional<Gradients> bf16_backward(const Backward& b);

}  // namespace torchqat::cpu::conv
