// A group of threads takes a block: each thread reads up to four packets, the group combines their range, and every thread
// quantises what it still holds. The formulas are those of the two-pass form, so are the bits.
#include "cuda/kernels/dynamic.h"

#include "cuda/kernels/affine.cuh"
#include "cuda/kernels/range.cuh"

namespace torchqat::cuda {
namespace {

constexpr int held = 4;  // packets of a thread

// What member 0 has, for the whole group.
template <int group, typename S>
__device__ __forceinline__ void share(Extremes<S>& e) {
  if constexpr (group > warp_size) {
    __shared__ S lo, hi;
    if (threadIdx.x == 0) {
      lo = e.lo;
      hi = e.hi;
    }
    __syncthreads();
    e.lo = lo;
    e.hi = hi;
  }
}

template <typename T, int group>
__global__ void __launch_bounds__(range_threads)
    dynamic_kernel(const T* __restrict__ in, T* __restrict__ out, uint8_t* __restrict__ mask, Grid<Compute<T>> grid, bool symmetric,
                   const __grid_constant__ Near map, uint64_t slots, int64_t* nonfinite) {
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
  // Integers: the order of the additions does not matter.
  if (used && member == 0 && e.skipped != 0 && nonfinite != nullptr) {
    atomicAdd(reinterpret_cast<unsigned long long*>(nonfinite), static_cast<unsigned long long>(e.skipped));
  }
  share<group>(e);
  const auto q = numerics::qparams(Lane<S>(e.lo), Lane<S>(e.hi), grid.quant_min, grid.quant_max, symmetric);
  const Params<S> params{q.scale, q.zero_point};
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
      bits |= static_cast<unsigned>(FakeQuantize<T>::apply(x[p][j], y[j], params, grid) && j < n) << j;
    }
    store_some(out + at, n, n == packet, y);
    if (mask != nullptr) mask[at / packet] = static_cast<uint8_t>(bits);
  }
}

template <typename T, int group>
void launch_dynamic(const Dynamic& a, Stream stream) {
  using S = Compute<T>;
  const Grid<S> grid{nullptr, nullptr, static_cast<S>(a.quant_min), static_cast<S>(a.quant_max), true};
  launch(dynamic_kernel<T, group>, blocks_for(a.blocks->scales * group, range_threads), dim3(range_threads), stream,
         static_cast<const T*>(a.in), static_cast<T*>(a.out), a.mask, grid, a.symmetric, Near(*a.blocks),
         static_cast<uint64_t>(a.blocks->scales), a.nonfinite);
}

template <typename T>
bool try_dynamic(const Dynamic& a, Stream stream) {
  const Blocks& b = *a.blocks;
  if (b.dims > 2 || b.numel > INT32_MAX || !rows_of_packets(b) || !packets_fit(static_cast<const T*>(a.in)) ||
      !packets_fit(static_cast<T*>(a.out))) {
    return false;
  }
  int64_t length = 1;
  for (int d = 0; d < b.dims; ++d) length *= b.block[d] < b.size[d] ? b.block[d] : b.size[d];
  if (length <= 4 * held * packet) {
    launch_dynamic<T, 4>(a, stream);
  } else if (length <= warp_size * held * packet) {
    launch_dynamic<T, warp_size>(a, stream);
  } else if (length <= range_threads * held * packet) {
    launch_dynamic<T, range_threads>(a, stream);
  } else {
    return false;
  }
  return true;
}

}  // namespace

bool fake_quantize_dynamic(const Dynamic& a, Float type, Stream stream) {
  if (a.blocks->numel == 0) return false;
  switch (type) {
    case Float::f32: return try_dynamic<float>(a, stream);
    case Float::bf16: return try_dynamic<Bf16>(a, stream);
    case Float::f16: return try_dynamic<Half>(a, stream);
    default: return false;
  }
}

}  // namespace torchqat::cuda
