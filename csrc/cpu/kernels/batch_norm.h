// BatchNorm over a batch, with or without a ReLU behind it: statistics, values, and gradients that look at the input only.
//
// The batch is cut into blocks that depend on its shape alone. A kernel works on blocks [begin, end), all channels; what it
// sums is kept block by block, and put together in double in the order of blocks: the same bits for any number of threads
// and on every instruction set.
#pragma once
#include <algorithm>
#include <cstdint>

namespace torchqat::cpu::batch_norm {

// Dense float32 [samples, channels, pixels], or [samples, pixels, channels] if channels_last.
struct Shape {
  int64_t samples = 0, channels = 0, pixels = 0;
  bool channels_last = false;

  int64_t count() const { return samples * pixels; }  // elements of a channel
  // Elements of a channel in a full block: the whole stays in the first-level cache.
  int64_t block_size() const { return channels_last ? std::clamp<int64_t>(8192 / std::max<int64_t>(channels, 1), 16, 1024) : 4096; }
  int64_t blocks_per_sample() const { return (pixels + block_size() - 1) / block_size(); }
  int64_t blocks() const { return channels_last ? (count() + block_size() - 1) / block_size() : samples * blocks_per_sample(); }
  // Elements of a channel in that block.
  int64_t size_of(int64_t block) const {
    const int64_t whole = channels_last ? count() : pixels, index = channels_last ? block : block % blocks_per_sample();
    return std::min(block_size(), whole - index * block_size());
  }
};

// For each block and channel: a rounded mean, and about it the sum of differences (what rounding left) and of squares.
struct Moments {
  float *mean, *rest, *squares;  // [blocks, channels]
};

// Per channel.
struct Parameters {
  const float *mean, *scale, *shift;  // scale = gamma / sqrt(var + eps)
  bool relu;
  float ceiling;  // of the ReLU; infinity for none
};

struct Kernels {
  void (*moments)(const Shape& shape, const float* x, int64_t begin, int64_t end, const Moments& out);
  void (*normalize)(const Shape& shape, const float* x, const Parameters& p, int64_t begin, int64_t end, float* y);
  // Sums of the gradient and of gradient * (x - mean), [blocks, channels]; the gradient is 0 where the ReLU gave 0.
  void (*gradient_sums)(const Shape& shape, const float* grad, const float* x, const Parameters& p, int64_t begin, int64_t end,
                        float* sum, float* product_sum);
  // mean and slope per channel, as numerics::normalized_gradient wants them.
  void (*gradient)(const Shape& shape, const float* grad, const float* x, const Parameters& p, const float* mean, const float* slope,
                   int64_t begin, int64_t end, float* dx);
};

extern const Kernels kernels_scalar, kernels_avx2, kernels_avx512;

// What blocks give together, per channel: mean and biased variance.
void merge_moments(const Shape& shape, const Moments& parts, float* mean, float* var);
// Sum over blocks, per channel.
void merge_sums(const Shape& shape, const float* parts, double* sum);
void update_average(float* running, const float* now, int64_t n, double momentum);

}  // namespace torchqat::cpu::batch_norm
