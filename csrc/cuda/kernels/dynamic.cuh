// Blocks that a group of threads holds in registers: each thread reads its packets, the group combines their range, a rule makes
// scale and zero point of it, and every thread rounds what it still holds. One reading; the formulas are those of the two-pass
// form, so are the bits.
#pragma once
#include "cuda/kernels/affine.cuh"
#include "cuda/kernels/range.cuh"

namespace torchqat::cuda {

// What member 0 has, for the whole group. Every thread of the block takes part.
template <int group, typename S>
__device__ __forceinline__ void share(Extremes<S>& e) {
  if constexpr (group > warp_size) {
    __shared__ S lo, hi;
    __shared__ int32_t skipped;
    if (threadIdx.x == 0) {
      lo = e.lo;
      hi = e.hi;
      skipped = e.skipped;
    }
    __syncthreads();
    e.lo = lo;
    e.hi = hi;
    e.skipped = skipped;
  }
}

// Rule: Params<S> params(range, first of the block: once per block); bool apply(in, out, params): whether the gradient passes.
// held: packets of a thread.
template <typename T, int group, int held, typename Rule>
__global__ void __launch_bounds__(range_threads)
    dynamic_kernel(const T* __restrict__ in, T* __restrict__ out, uint8_t* __restrict__ mask, Rule rule,
                   const __grid_constant__ Near map, uint64_t slots) {
  using S = Compute<T>;
  const uint64_t slot = (static_cast<uint64_t>(blockIdx.x) * range_threads + threadIdx.x) / group;
  const int member = static_cast<int>(threadIdx.x) % group;
  const bool used = slot < slots;
  const BlockWalk<Near> walk(map, used ? slot : 0);
  const int64_t count = used ? static_cast<int64_t>(walk.count) : 0;
  T x[held][packet];
  Extremes<S> e;
#pragma unroll
  for (int p = 0; p < held; ++p) {
    const int64_t i = static_cast<int64_t>(p * group + member) * packet;
    if (i >= count) break;
    const int n = count - i < packet ? static_cast<int>(count - i) : packet;
    load_some(in + walk.position(static_cast<uint32_t>(i)), n, n == packet, x[p]);
#pragma unroll
    for (int j = 0; j < packet; ++j) {
      if (j < n) e.take(widen<S>(x[p][j]));
    }
  }
  combine_group<group>(e, member);
  share<group>(e);
  const Params<S> params = rule.params(e, used && member == 0);
#pragma unroll
  for (int p = 0; p < held; ++p) {
    const int64_t i = static_cast<int64_t>(p * group + member) * packet;
    if (i >= count) break;
    const int n = count - i < packet ? static_cast<int>(count - i) : packet;
    const auto at = walk.position(static_cast<uint32_t>(i));
    T y[packet];
    unsigned bits = 0;
#pragma unroll
    for (int j = 0; j < packet; ++j) {
      bits |= static_cast<unsigned>(rule.apply(x[p][j], y[j], params) && j < n) << j;
    }
    store_some(out + at, n, n == packet, y);
    if (mask != nullptr) mask[at / packet] = static_cast<uint8_t>(bits);
  }
}

// False, and nothing is done, where blocks are too long or their packets straddle rows.
template <typename T, typename Rule>
bool launch_dynamic(const Blocks& b, const void* from, void* to, uint8_t* mask, const Rule& rule, Stream stream) {
  const T* in = static_cast<const T*>(from);
  T* out = static_cast<T*>(to);
  if (b.dims > 2 || b.numel > INT32_MAX || !rows_of_packets(b) || !packets_fit(in) || !packets_fit(out)) return false;
  int64_t length = 1;
  for (int d = 0; d < b.dims; ++d) length *= b.block[d] < b.size[d] ? b.block[d] : b.size[d];
  const auto go = [&]<int group, int held>() {
    launch(dynamic_kernel<T, group, held, Rule>, blocks_for(b.scales * group, range_threads), dim3(range_threads), stream, in, out,
           mask, rule, Near(b), static_cast<uint64_t>(b.scales));
    return true;
  };
  if (length <= 2 * packet) return go.template operator()<2, 1>();
  if (length <= 4 * packet) return go.template operator()<4, 1>();
  if (length <= 16 * packet) return go.template operator()<16, 1>();
  if (length <= warp_size * 4 * packet) return go.template operator()<warp_size, 4>();
  if (length <= range_threads * 4 * packet) return go.template operator()<range_threads, 4>();
  return false;
}

}  // namespace torchqat::cuda
