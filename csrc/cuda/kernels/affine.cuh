// Element-wise integer-grid kernels: one thread takes eight elements, one byte of the mask. Compiled by nvcc for the
// device and by g++ against the test shim.
#pragma once
#include "cuda/kernels/affine.h"
#include "cuda/kernels/block_map.cuh"
#include "cuda/kernels/lane.cuh"
#include "cuda/kernels/range.h"
#include "numerics/affine.h"

namespace torchqat::cuda {

constexpr int affine_threads = 256;

// Scale and zero point of one run. Anything invalid makes the scale NaN, and the zero point is one that can be stored.
template <typename S>
struct Params {
  Lane<S> scale, zero_point;
};

template <typename S>
__device__ __forceinline__ S positive_or_nan(S scale) {
  return scale > S(0) && scale <= std::numeric_limits<S>::max() ? scale : std::numeric_limits<S>::quiet_NaN();
}

template <typename S>
struct Grid {
  const S* scale;
  const S* zero_point;
  S quant_min, quant_max;
  bool bounded;

  __device__ Params<S> at(uint64_t index) const {
    constexpr S nan = std::numeric_limits<S>::quiet_NaN();
    const S s = scale[index];
    const S z = zero_point != nullptr ? zero_point[index] : S(0);
    const bool valid = s > S(0) && s <= std::numeric_limits<S>::max() && (!bounded || numerics::in_range(z, quant_min, quant_max));
    const Lane<S> stored = numerics::clamp_level(Lane<S>(z), Lane<S>(quant_min), Lane<S>(quant_max));
    return {valid ? s : nan, bounded ? stored : Lane<S>(z)};
  }
};

// Memory of a type fixed at compile time.
template <typename T>
struct Values {
  T* data;
  __device__ __forceinline__ void load(int64_t first, int n, bool whole, T (&x)[packet]) const {
    load_some(data + first, n, whole, x);
  }
  __device__ __forceinline__ void store(int64_t first, int n, bool whole, const T (&y)[packet]) const {
    store_some(data + first, n, whole, y);
  }
};

// Codes: the type is a uniform branch at the load or store, which costs nothing and divides the number of kernels by four.
struct Codes {
  void* data;
  Code type;
  template <typename C>
  __device__ __forceinline__ void load_as(int64_t first, int n, bool whole, int32_t (&x)[packet]) const {
    C codes[packet];
    load_some(static_cast<const C*>(data) + first, n, whole, codes);
#pragma unroll
    for (int j = 0; j < packet; ++j) x[j] = codes[j];
  }
  template <typename C>
  __device__ __forceinline__ void store_as(int64_t first, int n, bool whole, const int32_t (&y)[packet]) const {
    C codes[packet];
#pragma unroll
    for (int j = 0; j < packet; ++j) codes[j] = static_cast<C>(y[j]);
    store_some(static_cast<C*>(data) + first, n, whole, codes);
  }
  __device__ __forceinline__ void load(int64_t first, int n, bool whole, int32_t (&x)[packet]) const {
    switch (type) {
      case Code::s8: return load_as<int8_t>(first, n, whole, x);
      case Code::u8: return load_as<uint8_t>(first, n, whole, x);
      case Code::s16: return load_as<int16_t>(first, n, whole, x);
      case Code::s32: return load_as<int32_t>(first, n, whole, x);
    }
  }
  __device__ __forceinline__ void store(int64_t first, int n, bool whole, const int32_t (&y)[packet]) const {
    switch (type) {
      case Code::s8: return store_as<int8_t>(first, n, whole, y);
      case Code::u8: return store_as<uint8_t>(first, n, whole, y);
      case Code::s16: return store_as<int16_t>(first, n, whole, y);
      case Code::s32: return store_as<int32_t>(first, n, whole, y);
    }
  }
};

template <typename T>
struct FakeQuantize {
  using S = Compute<T>;
  using Context = Grid<S>;
  using In = Values<T>;
  using Out = Values<T>;
  static __device__ __forceinline__ bool apply(T in, T& out, const Params<S>& p, const Grid<S>& g) {
    const Lane<S> low(g.quant_min), high(g.quant_max);
    const Lane<S> level = numerics::affine_level(Lane<S>(widen<S>(in)), p.scale, p.zero_point);
    out = narrow<T>(numerics::affine_value(numerics::clamp_level(level, low, high), p.scale, p.zero_point).v);
    return numerics::in_range(level, low, high);
  }
};

template <typename T>
struct Quantize {
  using S = Compute<T>;
  using Context = Grid<S>;
  using In = Values<T>;
  using Out = Codes;
  static __device__ __forceinline__ bool apply(T in, int32_t& out, const Params<S>& p, const Grid<S>& g) {
    const Lane<S> code = numerics::affine_code(Lane<S>(widen<S>(in)), p.scale, p.zero_point, Lane<S>(g.quant_min),
                                               Lane<S>(g.quant_max));
    out = static_cast<int32_t>(numerics::storable_code(code, p.zero_point).v);
    return false;
  }
};

template <typename T>
struct Dequantize {
  using S = Compute<T>;
  using Context = Grid<S>;
  using In = Codes;
  using Out = Values<T>;
  static __device__ __forceinline__ bool apply(int32_t in, T& out, const Params<S>& p, const Grid<S>&) {
    out = narrow<T>(numerics::affine_value(Lane<S>(static_cast<S>(in)), p.scale, p.zero_point).v);
    return false;
  }
};

template <typename T>
T element_of(const Values<T>&);
int32_t element_of(const Codes&);

// aligned: in and out allow packets. one_run: a packet lies in one run, as those of whole tensors, long rows and groups of eights do.
template <typename Op, typename Map, bool one_run>
__global__ void __launch_bounds__(affine_threads)
    elements_kernel(typename Op::In in, typename Op::Out out, uint8_t* __restrict__ mask, typename Op::Context grid,
                  const __grid_constant__ Map map, int64_t numel, bool aligned) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * affine_threads + threadIdx.x) * packet;
  if (first >= numel) return;
  const int n = numel - first < packet ? static_cast<int>(numel - first) : packet;
  const bool whole = aligned && n == packet;
  decltype(element_of(in)) x[packet];
  decltype(element_of(out)) y[packet];
  in.load(first, n, whole, x);
  auto run = map.find(first);
  auto params = grid.at(run.scale);
  unsigned bits = 0;
  int64_t end = static_cast<int64_t>(run.length);
#pragma unroll
  for (int j = 0; j < packet; ++j) {
    if (!one_run && j >= end && j < n) {
      run = map.call(first + j);
      params = grid.at(run.scale);
      end = j + static_cast<int64_t>(run.length);
    }
    bool passes;
    if constexpr (requires { typename Op::WantsPlace; }) {
      passes = Op::apply(x[j], y[j], params, grid, first + j);
    } else {
      passes = Op::apply(x[j], y[j], params, grid);
    }
    bits |= static_cast<unsigned>(passes && j < n) << j;
  }
  out.store(first, n, whole, y);
  if (mask != nullptr) mask[first / packet] = static_cast<uint8_t>(bits);
}

template <typename T>
__global__ void __launch_bounds__(affine_threads)
    apply_mask_kernel(const T* __restrict__ grad, const uint8_t* __restrict__ mask, T* __restrict__ out, int64_t numel,
                      bool aligned) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * affine_threads + threadIdx.x) * packet;
  if (first >= numel) return;
  const int n = numel - first < packet ? static_cast<int>(numel - first) : packet;
  const bool whole = aligned && n == packet;
  T values[packet];
  load_some(grad + first, n, whole, values);
  const unsigned bits = mask[first / packet];
#pragma unroll
  for (int j = 0; j < packet; ++j) values[j] = (bits >> j) & 1u ? values[j] : T{};
  store_some(out + first, n, whole, values);
}

// Every element of a block structure, with what the operation wants to know of its grid.
template <typename Op>
void launch_elements(const Blocks& blocks, typename Op::In in, typename Op::Out out, uint8_t* mask,
                     const typename Op::Context& grid, bool aligned, Stream stream) {
  if (blocks.numel == 0) return;
  with_map(blocks, [&]<typename Map>(const Map& map) {
    auto kernel = elements_kernel<Op, Map, false>;
    if constexpr (std::is_same_v<Map, Near>) {
      if (rows_of_packets(blocks)) kernel = elements_kernel<Op, Map, true>;
    }
    launch(kernel, blocks_for(blocks.numel, affine_threads * packet), dim3(affine_threads), stream, in, out, mask, grid, map,
           blocks.numel, aligned);
  });
}

template <typename S>
Grid<S> grid_of(const AffineArgs& a, bool bounded) {
  return {static_cast<const S*>(a.scale), static_cast<const S*>(a.zero_point), static_cast<S>(a.quant_min),
          static_cast<S>(a.quant_max), bounded};
}

template <typename Op>
void launch_affine(const AffineArgs& a, typename Op::In in, typename Op::Out out, bool bounded, bool aligned, Stream stream) {
  launch_elements<Op>(*a.blocks, in, out, a.mask, grid_of<typename Op::S>(a, bounded), aligned, stream);
}

template <typename T>
void launch_apply_mask(const void* grad, const uint8_t* mask, void* out, int64_t numel, Stream stream) {
  if (numel == 0) return;
  const auto* from = static_cast<const T*>(grad);
  auto* to = static_cast<T*>(out);
  launch(apply_mask_kernel<T>, blocks_for(numel, affine_threads * packet), dim3(affine_threads), stream, from, mask, to, numel,
         packets_fit(from) && packets_fit(to));
}

// Every code type's packet is at most this wide.
template <typename T>
bool packets_fit(const Codes& codes, const T* values) {
  return packets_fit(static_cast<const int32_t*>(codes.data)) && packets_fit(values);
}

}  // namespace torchqat::cuda
