// The range to take from a histogram, by one block. Sums of counts are integers; every candidate of the least-squares search is one
// thread's, which adds the bins in ascending order, so its error is the CPU's.
#include "cuda/kernels/histogram.h"
#include "cuda/kernels/lane.cuh"
#include "numerics/affine.h"
#include "numerics/histogram.h"
#include "numerics/qparams.h"

namespace torchqat::cuda {
namespace {

constexpr int threads = 256;

struct Ends {
  float lo, hi;
};

// The smallest n in [1, size] for which count(0) + ... + count(n - 1) reaches wanted, or size. Every thread has it.
template <typename Count>
__device__ int64_t first_reaching(int64_t size, double wanted, const Count& count) {
  __shared__ int64_t sums[threads], found;
  const int64_t share = ceil_div<int64_t>(size, threads), begin = static_cast<int64_t>(threadIdx.x) * share;
  const int64_t end = begin + share < size ? begin + share : size;
  int64_t own = 0;
  for (int64_t i = begin; i < end; ++i) own += count(i);
  sums[threadIdx.x] = own;
  if (threadIdx.x == 0) found = size;
  __syncthreads();
  int64_t seen = 0;
  for (unsigned t = 0; t < threadIdx.x; ++t) seen += sums[t];
  if (threadIdx.x == 0 || static_cast<double>(seen) < wanted) {
    for (int64_t i = begin; i < end; ++i) {
      seen += count(i);
      if (static_cast<double>(seen) >= wanted) {
        found = i + 1;
        break;
      }
    }
  }
  __syncthreads();
  const int64_t result = found;
  __syncthreads();
  return result;
}

__device__ Ends inside(const HistogramQParams& h, double lo, double hi) {
  const float a = static_cast<float>(lo), b = static_cast<float>(hi);
  return {a < *h.lo ? *h.lo : a, *h.hi < b ? *h.hi : b};
}

__device__ Ends percentile_range(const HistogramQParams& h) {
  __shared__ int64_t sums[threads];
  int64_t total = 0;
  for (int64_t j = threadIdx.x; j < h.bins; j += threads) total += h.counts[j];
  sums[threadIdx.x] = total;
  __syncthreads();
  total = 0;
  for (int t = 0; t < threads; ++t) total += sums[t];
  const double wanted = h.percentile / 100.0 * static_cast<double>(total);
  const int64_t half = h.bins / 2;
  if (h.symmetric) {
    const int64_t width = first_reaching(half, wanted, [&](int64_t i) { return h.counts[half + i] + h.counts[half - 1 - i]; });
    const double v = numerics::histogram_edge(half + width, h.bins, *h.bound);
    return inside(h, -v, v);
  }
  const int64_t top = first_reaching(h.bins, wanted, [&](int64_t i) { return h.counts[i]; });
  const int64_t bottom = h.bins - first_reaching(h.bins, wanted, [&](int64_t i) { return h.counts[h.bins - 1 - i]; });
  return inside(h, numerics::histogram_edge(bottom, h.bins, *h.bound), numerics::histogram_edge(top, h.bins, *h.bound));
}

__device__ numerics::QParams<Lane<float>> grid_of(const HistogramQParams& h, Ends e) {
  return numerics::qparams(Lane<float>(e.lo), Lane<float>(e.hi), static_cast<float>(h.quant_min),
                           static_cast<float>(h.quant_max), h.symmetric);
}

__device__ double error_of(const HistogramQParams& h, Ends e) {
  const auto grid = grid_of(h, e);
  const double s = grid.scale.v, z = grid.zero_point.v;
  double sum = 0;
  for (int64_t j = 0; j < h.bins; ++j) {
    const int64_t count = h.counts[j];
    if (count == 0) continue;
    const double centre = numerics::histogram_centre(j, h.bins, *h.bound, *h.lo, *h.hi);
    const double code =
        numerics::affine_code(centre, s, z, static_cast<double>(h.quant_min), static_cast<double>(h.quant_max));
    const double error = numerics::affine_value(code, s, z) - centre;
    sum += static_cast<double>(count) * error * error;
  }
  return sum;
}

// A round of candidates, one a thread; the first of the least errors wins if it is below `least`.
template <typename Candidate>
__device__ void compete(const HistogramQParams& h, const Candidate& candidate, Ends& best, double& least) {
  constexpr int steps = numerics::histogram_steps;
  __shared__ double errors[steps];
  if (threadIdx.x < steps) errors[threadIdx.x] = error_of(h, candidate(static_cast<int>(threadIdx.x)));
  __syncthreads();
  int won = -1;
  for (int k = 0; k < steps; ++k) {
    if (errors[k] < least) {
      least = errors[k];
      won = k;
    }
  }
  if (won >= 0) best = candidate(won);
  __syncthreads();
}

__device__ Ends least_squares_range(const HistogramQParams& h) {
  constexpr float steps = numerics::histogram_steps;
  const Ends all{*h.lo < 0.0f ? *h.lo : 0.0f, *h.hi > 0.0f ? *h.hi : 0.0f};
  Ends best = all;
  double least = std::numeric_limits<double>::infinity();
  compete(h, [&](int k) {
    const float f = static_cast<float>(k) / steps;
    return k == 0 ? all : Ends{all.lo * f, all.hi * f};
  }, best, least);
  if (h.symmetric) return best;
  const float hi = best.hi;
  compete(h, [&](int k) { return Ends{all.lo * (static_cast<float>(k + 1) / steps), hi}; }, best, least);
  const float lo = best.lo;
  compete(h, [&](int k) { return Ends{lo, all.hi * (static_cast<float>(k + 1) / steps)}; }, best, least);
  return best;
}

__global__ void __launch_bounds__(threads) histogram_qparams_kernel(const __grid_constant__ HistogramQParams h) {
  Ends e{*h.lo, *h.hi};
  if (e.lo <= e.hi) e = h.least_squares ? least_squares_range(h) : percentile_range(h);
  if (threadIdx.x != 0) return;
  const auto grid = grid_of(h, e);
  *h.scale = grid.scale.v;
  *h.zero_point = static_cast<int32_t>(grid.zero_point.v);
}

}  // namespace

void histogram_qparams(const HistogramQParams& h, Stream stream) {
  launch(histogram_qparams_kernel, dim3(1), dim3(threads), stream, h);
}

}  // namespace torchqat::cuda
