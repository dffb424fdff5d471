// Counting and widening histograms.
#include "cuda/kernels/histogram.h"

#include "cuda/kernels/range.cuh"
#include "numerics/histogram.h"

namespace torchqat::cuda {
namespace {

constexpr int threads = 256;
constexpr int64_t shared_bins = 8192;        // so many are counted in shared memory
constexpr int64_t values_per_thread = 64, most_blocks = 2048;

// One warp: the range of the values, and what follows from it.
__global__ void __launch_bounds__(warp_size) prepare_kernel(const __grid_constant__ ObserveHistogram a) {
  Extremes<float> e;
  int64_t skipped = 0;
  for (int64_t chunk = lane(); chunk < a.plan.chunks; chunk += warp_size) {
    e.merge(static_cast<const float*>(a.parts.lo)[chunk], static_cast<const float*>(a.parts.hi)[chunk]);
    skipped += a.parts.skipped[chunk];
  }
  e.template across<warp_size>();
  skipped = warp_reduce(skipped, [](int64_t x, int64_t y) { return x + y; });
  if (lane() != 0) return;
  *a.nonfinite += skipped;
  *a.seen = a.numel - skipped;
  HistogramStep step{*a.bound, 0, e.lo <= e.hi};
  if (step.counts) {
    const float needed = numerics::histogram_bound(numerics::lane_max(-e.lo, e.hi));
    if (step.bound == 0.0f) step.bound = needed;
    for (; step.bound < needed; step.bound *= 2.0f) ++step.doublings;
    *a.bound = step.bound;
    numerics::merge_range(e.lo, e.hi, 1.0f, *a.lo, *a.hi);
  }
  *a.step = step;
}

// A thread per bin of the wider histogram gathers the narrow ones it covers.
__global__ void __launch_bounds__(threads) widen_kernel(const int64_t* counts, int64_t* wide, int64_t bins, const HistogramStep* step) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, half = bins / 2;
  if (step->doublings == 0 || own >= bins) return;
  const int shift = step->doublings < 32 ? step->doublings : 32;
  const int64_t width = int64_t{1} << shift, first = (own - half) * width;
  int64_t sum = 0;
  for (int64_t j = first > -half ? first : -half; j < first + width && j < half; ++j) sum += counts[half + j];
  wide[own] = sum;
}

__global__ void __launch_bounds__(threads) take_wide_kernel(int64_t* counts, const int64_t* wide, int64_t bins, const HistogramStep* step) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (step->doublings != 0 && own < bins) counts[own] = wide[own];
}

__device__ __forceinline__ void add_count(int64_t* counts, int64_t bin, int64_t n) {
  atomicAdd(reinterpret_cast<unsigned long long*>(counts + bin), static_cast<unsigned long long>(n));
}

template <typename T>
__global__ void __launch_bounds__(threads)
    count_kernel(const T* __restrict__ in, int64_t numel, int64_t* counts, int64_t bins, const HistogramStep* step, bool aligned) {
  __shared__ unsigned own_counts[shared_bins];
  if (!step->counts) return;
  const bool shared = bins <= shared_bins;
  const int thread = static_cast<int>(threadIdx.x);
  if (shared) {
    for (int64_t bin = thread; bin < bins; bin += threads) own_counts[bin] = 0;
    __syncthreads();
  }
  const float half = static_cast<float>(bins / 2), per_unit = half / step->bound;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * threads * packet;
  for (int64_t first = (static_cast<int64_t>(blockIdx.x) * threads + thread) * packet; first < numel; first += stride) {
    const int n = numel - first < packet ? static_cast<int>(numel - first) : packet;
    T values[packet];
    load_some(in + first, n, aligned && n == packet, values);
#pragma unroll
    for (int j = 0; j < packet; ++j) {
      const float x = widen<float>(values[j]);
      if (j >= n || !numerics::is_finite(Lane<float>(x))) continue;
      const int64_t bin = static_cast<int64_t>(numerics::histogram_place(x, per_unit, half)) + bins / 2;
      if (shared) {
        atomicAdd(own_counts + bin, 1u);
      } else {
        add_count(counts, bin, 1);
      }
    }
  }
  if (!shared) return;
  __syncthreads();
  for (int64_t bin = thread; bin < bins; bin += threads) {
    if (own_counts[bin] != 0) add_count(counts, bin, own_counts[bin]);
  }
}

template <typename T>
void launch_count(const ObserveHistogram& a, Stream stream) {
  const auto* in = static_cast<const T*>(a.input);
  const int64_t wanted = ceil_div(a.numel, threads * values_per_thread);
  launch(count_kernel<T>, blocks_for(wanted < most_blocks ? wanted : most_blocks, 1), dim3(threads), stream, in, a.numel, a.counts,
         a.bins, static_cast<const HistogramStep*>(a.step), packets_fit(in));
}

}  // namespace

void observe_histogram(const ObserveHistogram& a, Stream stream) {
  const HistogramStep* step = a.step;
  launch(prepare_kernel, dim3(1), dim3(warp_size), stream, a);
  const dim3 grid = blocks_for(a.bins, threads);
  launch(widen_kernel, grid, dim3(threads), stream, static_cast<const int64_t*>(a.counts), a.wide, a.bins, step);
  launch(take_wide_kernel, grid, dim3(threads), stream, a.counts, static_cast<const int64_t*>(a.wide), a.bins, step);
  switch (a.type) {
    case Float::bf16: return launch_count<Bf16>(a, stream);
    case Float::f16: return launch_count<Half>(a, stream);
    default: return launch_count<float>(a, stream);
  }
}

}  // namespace torchqat::cuda
