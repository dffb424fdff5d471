// Walks the runs of equal scale of a Blocks range, in memory order. Included by ISA files only.
#pragma once
#include "cpu/kernels/blocks.h"
#include "numerics/config.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

// visit(position, length, scale index) for [begin, end).
template <typename Visit>
TORCHQAT_INLINE void for_runs(const Blocks& b, int64_t begin, int64_t end, Visit&& visit) {
  if (begin >= end) return;
  const int inner = b.dims - 1;
  int64_t at[Blocks::max_dims];
  int64_t rest = begin;
  for (int d = inner; d >= 0; --d) {
    at[d] = rest % b.size[d];
    rest /= b.size[d];
  }
  const int64_t width = b.block[inner], step = b.stride[inner];
  for (int64_t position = begin; position < end;) {
    int64_t index = (at[inner] / width) * step;
    for (int d = 0; d < inner; ++d) index += (at[d] / b.block[d]) * b.stride[d];
    int64_t left = b.size[inner] - at[inner];
    if (left > end - position) left = end - position;
    int64_t run = width - at[inner] % width;
    while (left > 0) {
      const int64_t n = run < left ? run : left;
      visit(position, n, index);
      position += n;
      left -= n;
      run = width;
      index += step;
    }
    at[inner] = 0;
    for (int d = inner - 1; d >= 0 && ++at[d] == b.size[d]; --d) at[d] = 0;
  }
}

}  // namespace torchqat::cpu
