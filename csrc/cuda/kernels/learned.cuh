// The two passes of a backward that sums over blocks. Rule gives an element's terms: numerics/learned.h.
#pragma once
#include "cuda/kernels/affine.cuh"
#include "cuda/kernels/learned.h"
#include "cuda/kernels/range.cuh"

namespace torchqat::cuda {
namespace {

__device__ __forceinline__ double warp_sum(double x, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(full_warp, x, offset);
  return x;
}

template <typename Rule, typename T, typename Map, int group, int width>
__global__ void __launch_bounds__(range_threads)
    learned_kernel(const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx, Grid<Compute<T>> grid,
                   const __grid_constant__ Map map, uint64_t slots, uint64_t chunks, uint64_t per_chunk, Rule rule,
                   double* __restrict__ ds, double* __restrict__ dz) {
  using S = Compute<T>;
  const uint64_t number = (static_cast<uint64_t>(blockIdx.x) * range_threads + threadIdx.x) / group;
  const int member = static_cast<int>(threadIdx.x) % group;
  const bool used = number < slots * chunks;
  const BlockWalk<Map> walk(map, used ? number % slots : 0);
  const uint64_t chunk = used ? number / slots : 0;
  double sum = 0, clipped = 0;
  S scale = 0;
  if (used) {
    const Params<S> p = grid.at(walk.scale);
    scale = p.scale.v;
    const uint64_t begin = chunk * per_chunk;
    const uint64_t end = begin + per_chunk < walk.count ? begin + per_chunk : walk.count;
    for (uint64_t i = begin + static_cast<uint64_t>(member) * width; i < end; i += group * width) {
      const auto at = walk.position(i);
      const int n = end - i < width ? static_cast<int>(end - i) : width;
      T own_x[packet], own_dy[packet], own_dx[packet];
      load_some(x + at, n, width == packet && n == packet, own_x);
      load_some(dy + at, n, width == packet && n == packet, own_dy);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const Lane<S> at_x(widen<S>(own_x[j])), at_dy(widen<S>(own_dy[j])), low(grid.quant_min), high(grid.quant_max);
        const auto t = rule.terms(at_x, at_dy, p.scale, p.zero_point, low, high);
        own_dx[j] = narrow<T>(t.dx.v);
        if (j < n) {
          sum += static_cast<double>(t.ds.v);
          clipped += static_cast<double>(t.clipped.v);
        }
      }
      store_some(dx + at, n, width == packet && n == packet, own_dx);
    }
  }
  if constexpr (group > 1) {
    sum = warp_sum(sum, group < warp_size ? group : warp_size);
    clipped = warp_sum(clipped, group < warp_size ? group : warp_size);
  }
  if constexpr (group > warp_size) {
    __shared__ double shared_sum[range_threads / warp_size], shared_clipped[range_threads / warp_size];
    if (lane() == 0) {
      shared_sum[warp()] = sum;
      shared_clipped[warp()] = clipped;
    }
    __syncthreads();
    if (member == 0) {
      for (int w = 1; w < group / warp_size; ++w) {
        sum += shared_sum[w];
        clipped += shared_clipped[w];
      }
    }
  }
  if (used && member == 0) {
    ds[chunk * slots + walk.scale] = sum;
    dz[chunk * slots + walk.scale] = -static_cast<double>(scale) * clipped;
  }
}

// A warp per scale.
__global__ static void __launch_bounds__(range_threads)
    learned_finish_kernel(const double* part_ds, const double* part_dz, int64_t scales, int64_t chunks, double grad_scale, double* ds,
                          double* dz) {
  const int64_t scale = (static_cast<int64_t>(blockIdx.x) * range_threads + threadIdx.x) / warp_size;
  double sum = 0, zero = 0;
  for (int64_t chunk = lane(); scale < scales && chunk < chunks; chunk += warp_size) {
    sum += part_ds[chunk * scales + scale];
    zero += part_dz[chunk * scales + scale];
  }
  sum = warp_sum(sum, warp_size);
  zero = warp_sum(zero, warp_size);
  if (scale >= scales || lane() != 0) return;
  ds[scale] = sum * grad_scale;
  dz[scale] = zero * grad_scale;
}

template <typename Rule, typename T, typename Map, int group, int width>
void launch_learned(const LearnedArgs& a, Rule rule, const Map& map, const RangePlan& plan, Stream stream) {
  using S = Compute<T>;
  const Grid<S> grid{static_cast<const S*>(a.scale), static_cast<const S*>(a.zero_point), static_cast<S>(a.quant_min),
                     static_cast<S>(a.quant_max), true};
  launch(learned_kernel<Rule, T, Map, group, width>, blocks_for(a.blocks->scales * plan.chunks * group, range_threads),
         dim3(range_threads), stream, static_cast<const T*>(a.x), static_cast<const T*>(a.dy), static_cast<T*>(a.dx), grid, map,
         static_cast<uint64_t>(a.blocks->scales), static_cast<uint64_t>(plan.chunks), static_cast<uint64_t>(plan.per_chunk),
         rule, a.part_ds, a.part_dz);
}

// Both passes.
template <typename Rule>
void learned_sums(const LearnedArgs& a, Rule rule, const RangePlan& plan, Float type, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    with_map(*a.blocks, [&]<typename Map>(const Map& map) {
      const bool packets = rows_of_packets(*a.blocks) && packets_fit(static_cast<const T*>(a.x)) &&
                           packets_fit(static_cast<const T*>(a.dy)) && packets_fit(static_cast<T*>(a.dx));
      if (plan.group == 1) return launch_learned<Rule, T, Map, 1, 1>(a, rule, map, plan, stream);
      if (plan.group <= warp_size) {
        return packets ? launch_learned<Rule, T, Map, warp_size, packet>(a, rule, map, plan, stream)
                       : launch_learned<Rule, T, Map, warp_size, 1>(a, rule, map, plan, stream);
      }
      packets ? launch_learned<Rule, T, Map, range_threads, packet>(a, rule, map, plan, stream)
              : launch_learned<Rule, T, Map, range_threads, 1>(a, rule, map, plan, stream);
    });
  });
  launch(learned_finish_kernel, blocks_for(a.blocks->scales * warp_size, range_threads), dim3(range_threads), stream,
         static_cast<const double*>(a.part_ds), static_cast<const double*>(a.part_dz), a.blocks->scales, plan.chunks, a.grad_scale,
         a.ds, a.dz);
}

}  // namespace
}  // namespace torchqat::cuda
