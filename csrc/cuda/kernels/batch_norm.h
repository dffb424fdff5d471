// BatchNorm with a batch's own statistics, and a ReLU behind it: values and gradients that look at the input only. No torch.
#pragma once
#include "cuda/kernels/affine.h"

namespace torchqat::cuda {

// Dense float32 [samples, channels, pixels], or [samples, pixels, channels] if channels_last.
struct BatchNorm {
  int64_t samples = 0, channels = 0, pixels = 0;
  bool channels_last = false, relu = false;
  float ceiling = 0;  // of the ReLU; infinity for none
  const float* x = nullptr;
  const float *mean = nullptr, *scale = nullptr, *shift = nullptr;  // [channels]; scale = gamma / sqrt(var + eps)
  const float* grad = nullptr;                                      // of the backward
  const float *grad_mean = nullptr, *slope = nullptr;               // [channels], as numerics::normalized_gradient wants them
  float* out = nullptr;                                             // y, or dx
};
void batch_norm_values(const BatchNorm& args, Stream stream);
void batch_norm_gradient(const BatchNorm& args, Stream stream);

// Sums of the gradient and of gradient * (x - mean) for each channel, in double, in a fixed order. parts: [2][chunks][channels].
int64_t batch_norm_chunks(const BatchNorm& args);
void batch_norm_sums(const BatchNorm& args, int64_t chunks, double* parts, double* sums, Stream stream);

}  // namespace torchqat::cuda
