// Element-wise passes of BatchNorm, and the two levels of its sums.
#include "cuda/kernels/batch_norm.h"

#include "cuda/kernels/lane.cuh"
#include "numerics/batch_norm.h"

namespace torchqat::cuda {
namespace {

constexpr int threads = 256;

// The gradient at the normalised value: 0 where the ReLU gave 0.
__device__ __forceinline__ float open_gradient(const BatchNorm& b, float grad, float centred, int64_t channel) {
  if (!b.relu) return grad;
  return numerics::rectified_gradient(numerics::normalized(centred, b.scale[channel], b.shift[channel]), b.ceiling, grad);
}

// A thread takes eight elements.
template <bool backward>
__global__ void __launch_bounds__(threads) elements_kernel(const __grid_constant__ BatchNorm b, bool aligned) {
  const int64_t numel = b.samples * b.channels * b.pixels;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * packet;
  if (first >= numel) return;
  const int n = numel - first < packet ? static_cast<int>(numel - first) : packet;
  const bool whole = aligned && n == packet;
  float x[packet], dy[packet], y[packet];
  load_some(b.x + first, n, whole, x);
  if constexpr (backward) load_some(b.grad + first, n, whole, dy);
  int64_t channel = b.channels_last ? first % b.channels : first / b.pixels % b.channels;
  int64_t left = b.channels_last ? 1 : b.pixels - first % b.pixels;  // elements of this channel from here on
#pragma unroll
  for (int j = 0; j < packet; ++j) {
    if (j >= n) break;
    if (left == 0) {
      channel = channel + 1 == b.channels ? 0 : channel + 1;
      left = b.channels_last ? 1 : b.pixels;
    }
    --left;
    const float centred = x[j] - b.mean[channel];
    if constexpr (backward) {
      y[j] = numerics::normalized_gradient(open_gradient(b, dy[j], centred, channel), centred, b.grad_mean[channel],
                                           b.slope[channel], b.scale[channel]);
    } else {
      const float value = numerics::normalized(centred, b.scale[channel], b.shift[channel]);
      y[j] = b.relu ? numerics::rectified(value, b.ceiling) : value;
    }
  }
  store_some(b.out + first, n, whole, y);
}

template <bool backward>
void launch_elements(const BatchNorm& b, Stream stream) {
  const int64_t numel = b.samples * b.channels * b.pixels;
  if (numel == 0) return;
  const bool aligned = packets_fit(b.x) && packets_fit(b.out) && (!backward || packets_fit(b.grad));
  launch(elements_kernel<backward>, blocks_for(numel, threads * packet), dim3(threads), stream, b, aligned);
}

// A warp's lanes are neighbours in memory: pixels of one channel, or 32 channels of one pixel. The eight warps of a block share out
// the chunk; their sums are added in order.
__global__ void __launch_bounds__(threads) sums_kernel(const __grid_constant__ BatchNorm b, int64_t chunks, double* parts) {
  constexpr int warps = threads / warp_size;
  __shared__ double shared[2][warps][warp_size];
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) % chunks, own = static_cast<int64_t>(blockIdx.x) / chunks;
  const int64_t count = b.samples * b.pixels, share = ceil_div(count, chunks);
  const int64_t end = (chunk + 1) * share < count ? (chunk + 1) * share : count;
  const int64_t channel = b.channels_last ? own * warp_size + lane() : own;
  double sum = 0, product = 0;
  const int64_t step = b.channels_last ? warps : threads;
  for (int64_t i = chunk * share + (b.channels_last ? warp() : static_cast<int>(threadIdx.x)); channel < b.channels && i < end; i += step) {
    const int64_t at = b.channels_last ? i * b.channels + channel : (i / b.pixels * b.channels + channel) * b.pixels + i % b.pixels;
    const float centred = b.x[at] - b.mean[channel];
    const float open = open_gradient(b, b.grad[at], centred, channel);
    sum += static_cast<double>(open);
    product += static_cast<double>(open) * static_cast<double>(centred);
  }
  if (!b.channels_last) {
    sum = warp_reduce(sum, [](double x, double y) { return x + y; });
    product = warp_reduce(product, [](double x, double y) { return x + y; });
  }
  shared[0][warp()][lane()] = sum;
  shared[1][warp()][lane()] = product;
  __syncthreads();
  if (warp() != 0 || (!b.channels_last && lane() != 0) || channel >= b.channels) return;
  for (int w = 1; w < warps; ++w) {
    sum += shared[0][w][lane()];
    product += shared[1][w][lane()];
  }
  parts[chunk * b.channels + channel] = sum;
  parts[(chunks + chunk) * b.channels + channel] = product;
}

// A thread per sum.
__global__ void __launch_bounds__(threads) finish_sums_kernel(int64_t channels, int64_t chunks, const double* parts, double* sums) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= 2 * channels) return;
  double sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += parts[(i / channels * chunks + chunk) * channels + i % channels];
  sums[i] = sum;
}

}  // namespace

void batch_norm_values(const BatchNorm& b, Stream stream) { launch_elements<false>(b, stream); }
void batch_norm_gradient(const BatchNorm& b, Stream stream) { launch_elements<true>(b, stream); }

int64_t batch_norm_chunks(const BatchNorm& b) {
  const int64_t blocks = b.channels_last ? ceil_div<int64_t>(b.channels, warp_size) : b.channels, count = b.samples * b.pixels;
  // Enough blocks to fill a device, each with enough to do.
  const int64_t wanted = ceil_div<int64_t>(1024, blocks < 1 ? 1 : blocks), most = ceil_div<int64_t>(count, 1024);
  return wanted < most ? wanted : most < 1 ? 1 : most;
}

void batch_norm_sums(const BatchNorm& b, int64_t chunks, double* parts, double* sums, Stream stream) {
  if (b.channels == 0) return;
  const int64_t blocks = b.channels_last ? ceil_div<int64_t>(b.channels, warp_size) : b.channels;
  launch(sums_kernel, blocks_for(blocks * chunks, 1), dim3(threads), stream, b, chunks, parts);
  launch(finish_sums_kernel, blocks_for(2 * b.channels, threads), dim3(threads), stream, b.channels, chunks,
         static_cast<const double*>(parts), sums);
}

}  // namespace torchqat::cuda
