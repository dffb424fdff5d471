// The two levels of the range of each block. Minimum and maximum do not depend on order, so any division of the work gives the
// same bits; the sign of a zero does, and qparams and the running range drop it.
#pragma once
#include "cuda/kernels/block_map.cuh"
#include "cuda/kernels/lane.cuh"
#include "cuda/kernels/range.h"
#include "numerics/qparams.h"

namespace torchqat::cuda {

constexpr int range_threads = 256;

template <typename S>
struct Extremes {
  S lo = std::numeric_limits<S>::infinity();
  S hi = -std::numeric_limits<S>::infinity();
  int32_t skipped = 0;

  __device__ __forceinline__ void take(S x) {
    const bool ok = numerics::is_finite(Lane<S>(x));
    lo = numerics::lane_min(lo, ok ? x : lo);
    hi = numerics::lane_max(hi, ok ? x : hi);
    skipped += !ok;
  }
  __device__ __forceinline__ void merge(S other_lo, S other_hi) {
    lo = numerics::lane_min(lo, other_lo);
    hi = numerics::lane_max(hi, other_hi);
  }
  template <int lanes>
  __device__ __forceinline__ void across() {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
      merge(__shfl_xor_sync(full_warp, lo, offset), __shfl_xor_sync(full_warp, hi, offset));
      skipped += __shfl_xor_sync(full_warp, skipped, offset);
    }
  }
};

// The extremes of a group's threads, for its member 0. Every thread of the block takes part.
template <int group, typename S>
__device__ __forceinline__ void combine_group(Extremes<S>& e, int member) {
  if constexpr (group > 1) e.template across<(group < warp_size ? group : warp_size)>();
  if constexpr (group > warp_size) {
    __shared__ S shared_lo[range_threads / warp_size], shared_hi[range_threads / warp_size];
    __shared__ int32_t shared_skipped[range_threads / warp_size];
    if (lane() == 0) {
      shared_lo[warp()] = e.lo;
      shared_hi[warp()] = e.hi;
      shared_skipped[warp()] = e.skipped;
    }
    __syncthreads();
    if (member == 0) {
      for (int w = 1; w < group / warp_size; ++w) {
        e.merge(shared_lo[w], shared_hi[w]);
        e.skipped += shared_skipped[w];
      }
    }
  }
}

// The elements of one block, numbered in memory order.
template <typename Map>
struct BlockWalk;

template <typename Index, int max>
struct BlockWalk<BlockMap<Index, max>> {
  Index first = 0, count = 1, scale = 0;
  Index extent[max];
  const BlockMap<Index, max>& map;

  // slot: the block's number in memory order.
  __device__ __forceinline__ BlockWalk(const BlockMap<Index, max>& m, uint64_t slot) : map(m) {
    Index rest = static_cast<Index>(slot), pitch = 1;
    down([&](int d) {
      const Index blocks = ceil_div(map.size[d], map.block[d]);
      const Index at = d > 0 ? rest % blocks : rest;
      if (d > 0) rest /= blocks;
      const Index begin = at * map.block[d];
      extent[d] = map.size[d] - begin < map.block[d] ? map.size[d] - begin : map.block[d];
      first += begin * pitch;
      count *= extent[d];
      scale += at * map.stride[d];
      pitch *= map.size[d];
    });
  }
  __device__ __forceinline__ Index position(Index element) const {
    Index rest = element, at = first, pitch = 1;
    down([&](int d) {
      if (d > 0) {
        at += rest % extent[d] * pitch;
        rest /= extent[d];
        pitch *= map.size[d];
      }
    });
    return at + rest * pitch;
  }

 private:
  // visit(d) from the last dimension to the first. Two dimensions are written out, so that extent stays in registers.
  template <typename Visit>
  __device__ __forceinline__ void down(const Visit& visit) const {
    if constexpr (max == 2) {
      if (map.dims > 1) visit(1);
      visit(0);
    } else {
      for (int d = map.dims - 1; d >= 0; --d) visit(d);
    }
  }
};

// width: 8 where eight elements that follow one another in a block lie together in aligned memory, else 1.
template <typename T, typename Map, int group, int width>
__global__ void __launch_bounds__(range_threads)
    min_max_kernel(const T* __restrict__ in, const __grid_constant__ Map map, uint64_t slots, uint64_t chunks, uint64_t per_chunk,
                   Compute<T>* __restrict__ lo, Compute<T>* __restrict__ hi, int32_t* __restrict__ skipped) {
  using S = Compute<T>;
  const uint64_t number = (static_cast<uint64_t>(blockIdx.x) * range_threads + threadIdx.x) / group;
  const int member = static_cast<int>(threadIdx.x) % group;
  const bool used = number < slots * chunks;
  const uint64_t slot = used ? number % slots : 0, chunk = used ? number / slots : 0;
  const BlockWalk<Map> walk(map, slot);
  Extremes<S> e;
  if (used) {
    const uint64_t begin = chunk * per_chunk;
    const uint64_t end = begin + per_chunk < walk.count ? begin + per_chunk : walk.count;
    for (uint64_t i = begin + static_cast<uint64_t>(member) * width; i < end; i += group * width) {
      const T* p = in + walk.position(i);
      if constexpr (width == packet) {
        const int n = end - i < packet ? static_cast<int>(end - i) : packet;
        T x[packet];
        load_some(p, n, n == packet, x);
#pragma unroll
        for (int j = 0; j < packet; ++j) {
          if (j < n) e.take(widen<S>(x[j]));
        }
      } else {
        e.take(widen<S>(*p));
      }
    }
  }
  combine_group<group>(e, member);
  if (used && member == 0) {
    const uint64_t at = chunk * slots + walk.scale;
    lo[at] = e.lo;
    hi[at] = e.hi;
    skipped[at] = e.skipped;
  }
}

// A warp per scale where there are chunks to combine, else a thread.
template <typename S, int group>
__global__ void __launch_bounds__(range_threads) finish_kernel(RangeFinish a) {
  const int64_t scale = (static_cast<int64_t>(blockIdx.x) * range_threads + threadIdx.x) / group;
  const bool used = scale < a.scales;
  const int member = static_cast<int>(threadIdx.x) % group;
  Extremes<S> e;
  int64_t skipped = 0;
  if (used) {
    for (int64_t chunk = member; chunk < a.chunks; chunk += group) {
      const int64_t at = chunk * a.scales + scale;
      e.merge(static_cast<const S*>(a.parts.lo)[at], static_cast<const S*>(a.parts.hi)[at]);
      if (a.parts.skipped != nullptr) skipped += a.parts.skipped[at];
    }
  }
  if constexpr (group > 1) {
    e.template across<group>();
    skipped = warp_reduce(skipped, [](int64_t x, int64_t y) { return x + y; });
  }
  if (!used || member != 0) return;
  // Integers: the order of the additions does not matter.
  if (a.nonfinite != nullptr && skipped != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(a.nonfinite), static_cast<unsigned long long>(skipped));
  }
  if (a.running_lo != nullptr) {
    S& lo = static_cast<S*>(a.running_lo)[scale];
    S& hi = static_cast<S*>(a.running_hi)[scale];
    if (a.fresh) {
      lo = std::numeric_limits<S>::infinity();
      hi = -lo;
    }
    numerics::merge_range(e.lo, e.hi, static_cast<S>(a.averaging), lo, hi);
    e.lo = lo;
    e.hi = hi;
  }
  if (a.scale == nullptr) return;
  const auto q = numerics::qparams(Lane<S>(e.lo), Lane<S>(e.hi), static_cast<S>(a.quant_min), static_cast<S>(a.quant_max),
                                   a.symmetric);
  static_cast<S*>(a.scale)[scale] = q.scale.v;
  a.zero_point[scale] = static_cast<int32_t>(q.zero_point.v);
  if (a.zero_point_value != nullptr) static_cast<S*>(a.zero_point_value)[scale] = q.zero_point.v;
}

}  // namespace torchqat::cuda
