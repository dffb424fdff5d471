// A group of threads takes a chunk of a block, as in range.cuh, and quantises what it has just read. Blocks whose packets straddle
// rows take two kernels.
#include "cuda/kernels/observed.h"

#include "cuda/kernels/affine.cuh"
#include "cuda/kernels/range.cuh"

namespace torchqat::cuda {
namespace {

template <typename T, typename Map, int group>
__global__ void __launch_bounds__(range_threads)
    observed_kernel(const T* __restrict__ in, T* __restrict__ out, uint8_t* __restrict__ mask, Grid<Compute<T>> grid,
                    const __grid_constant__ Map map, uint64_t slots, uint64_t chunks, uint64_t per_chunk,
                    Compute<T>* __restrict__ lo, Compute<T>* __restrict__ hi, int32_t* __restrict__ skipped) {
  using S = Compute<T>;
  const uint64_t number = (static_cast<uint64_t>(blockIdx.x) * range_threads + threadIdx.x) / group;
  const int member = static_cast<int>(threadIdx.x) % group;
  const bool used = number < slots * chunks;
  const uint64_t chunk = used ? number / slots : 0;
  const BlockWalk<Map> walk(map, used ? number % slots : 0);
  Extremes<S> e;
  if (used) {
    const Params<S> p = grid.at(walk.scale);
    const uint64_t begin = chunk * per_chunk;
    const uint64_t end = begin + per_chunk < walk.count ? begin + per_chunk : walk.count;
    for (uint64_t i = begin + static_cast<uint64_t>(member) * packet; i < end; i += group * packet) {
      const auto at = walk.position(i);
      const int n = end - i < packet ? static_cast<int>(end - i) : packet;
      T x[packet], y[packet];
      load_some(in + at, n, n == packet, x);
      unsigned bits = 0;
#pragma unroll
      for (int j = 0; j < packet; ++j) {
        if (j < n) e.take(widen<S>(x[j]));
        bits |= static_cast<unsigned>(FakeQuantize<T>::apply(x[j], y[j], p, grid) && j < n) << j;
      }
      store_some(out + at, n, n == packet, y);
      if (mask != nullptr) mask[at / packet] = static_cast<uint8_t>(bits);
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

template <typename T, typename Map, int group>
void launch_observed(const AffineArgs& a, const Map& map, const RangePlan& plan, const RangeParts& parts, Stream stream) {
  using S = Compute<T>;
  const auto scales = static_cast<uint64_t>(a.blocks->scales);
  launch(observed_kernel<T, Map, group>, blocks_for(a.blocks->scales * plan.chunks * group, range_threads), dim3(range_threads),
         stream, static_cast<const T*>(a.in), static_cast<T*>(a.out), a.mask, grid_of<S>(a, true), map, scales,
         static_cast<uint64_t>(plan.chunks), static_cast<uint64_t>(plan.per_chunk), static_cast<S*>(parts.lo),
         static_cast<S*>(parts.hi), parts.skipped);
}

}  // namespace

void fake_quantize_observed(const AffineArgs& a, const RangePlan& plan, const RangeParts& parts, Float type, Stream stream) {
  bool fused = false;
  with_float(type, [&]<typename T>(T*) {
    if (plan.group == 1 || !rows_of_packets(*a.blocks) || !packets_fit(static_cast<const T*>(a.in)) ||
        !packets_fit(static_cast<T*>(a.out))) {
      return;
    }
    fused = true;
    with_map(*a.blocks, [&]<typename Map>(const Map& map) {
      if (plan.group == 4) return launch_observed<T, Map, 4>(a, map, plan, parts, stream);
      if (plan.group == warp_size) return launch_observed<T, Map, warp_size>(a, map, plan, parts, stream);
      launch_observed<T, Map, range_threads>(a, map, plan, parts, stream);
    });
  });
  if (fused) return;
  min_max(*a.blocks, plan, a.in, type, parts, stream);
  fake_quantize(a, type, stream);
}

}  // namespace torchqat::cuda
