// Merging of block structures.
#include "cpu/kernels/blocks.h"

#include <algorithm>

namespace torchqat::cpu {

Blocks make_blocks(int dims, const int64_t* size, const int64_t* block, const int64_t* stride) {
  Blocks b;
  for (int d = 0; d < dims; ++d) {
    const int64_t n = size[d];
    const int64_t width = std::max<int64_t>(1, std::min(block[d], n));
    const int64_t count = n == 0 ? 0 : (n + width - 1) / width;
    b.numel *= n;
    b.scales *= std::max<int64_t>(1, count);
    if (n == 1) continue;
    if (b.dims > 0) {
      const int outer = b.dims - 1;
      if (count == 1) {  // the whole inner dimension shares a scale
        b.size[outer] *= n;
        b.block[outer] *= n;
        continue;
      }
      if (b.block[outer] == 1 && n % width == 0 && b.stride[outer] == stride[d] * count) {
        b.size[outer] *= n;
        b.block[outer] = width;
        b.stride[outer] = stride[d];
        continue;
      }
    }
    b.size[b.dims] = n;
    b.block[b.dims] = width;
    b.stride[b.dims] = stride[d];
    ++b.dims;
  }
  if (b.dims == 0) {
    b.dims = 1;
    b.size[0] = b.block[0] = 1;
    b.stride[0] = 0;
  }
  const int inner = b.dims - 1;
  const bool whole = b.block[inner] >= b.size[inner];
  const bool block_fits = whole || b.block[inner] % 16 == 0;
  b.aligned = b.dims == 1 ? block_fits : block_fits && b.size[inner] % 16 == 0;
  return b;
}

}  // namespace torchqat::cpu
