// Which scale an element uses (cpu/kernels/blocks.h), in the form a kernel takes by value.
#pragma once
#include "cpu/kernels/blocks.h"
#include "cuda/kernels/runtime.cuh"

namespace torchqat::cuda {

using cpu::Blocks;

// Nearly every block structure merges to one or two dimensions and 32-bit offsets; Far takes all the others.
template <typename Index, int max>
struct BlockMap {
  int dims;
  Index size[max], block[max], stride[max];

  explicit BlockMap(const Blocks& b) : dims(b.dims) {
    for (int d = 0; d < dims; ++d) {
      size[d] = static_cast<Index>(b.size[d]);
      block[d] = static_cast<Index>(b.block[d]);
      stride[d] = static_cast<Index>(b.stride[d]);
    }
  }

  struct Run {
    Index scale;   // the scale of the element
    Index length;  // so many elements from it on, itself included, share the scale
  };

  __device__ __forceinline__ Run locate(int64_t element) const {
    Index rest = static_cast<Index>(element);
    const int inner = dims - 1;
    Index at = rest;
    if (inner > 0) {
      at = rest % size[inner];
      rest /= size[inner];
    }
    const Index number = at / block[inner];
    const Index in_block = at - number * block[inner];
    const Index to_end = size[inner] - at, to_next = block[inner] - in_block;
    Index scale = number * stride[inner];
    for (int d = inner - 1; d >= 0; --d) {
      at = d > 0 ? rest % size[d] : rest;
      if (d > 0) rest /= size[d];
      scale += at / block[d] * stride[d];
    }
    return {scale, to_next < to_end ? to_next : to_end};
  }
  // A call where divisions are of 64 bits and loops long, or where it is seldom needed; kernels take the map as __grid_constant__, so
  // that it stays where it is.
  __device__ __noinline__ Run call(int64_t element) const { return locate(element); }
  __device__ __forceinline__ Run find(int64_t element) const {
    if constexpr (sizeof(Index) == 4) {
      return locate(element);
    } else {
      return call(element);
    }
  }
};

using Near = BlockMap<uint32_t, 2>;
using Far = BlockMap<uint64_t, Blocks::max_dims>;

// Calls f with the map that fits.
template <typename F>
void with_map(const Blocks& b, F f) {
  if (b.dims <= 2 && b.numel <= INT32_MAX) {
    f(Near(b));
  } else {
    f(Far(b));
  }
}

}  // namespace torchqat::cuda
