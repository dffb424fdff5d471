// Which scale an element uses, over the flat memory order of a dense tensor. Dimensions are merged as far as the block
// structure allows: per tensor, per channel, per token and per group all end as one dimension.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

// Element with coordinates c uses scale sum over d of (c[d] / block[d]) * stride[d]. Dimension dims - 1 is contiguous.
struct Blocks {
  static constexpr int max_dims = 64;
  int dims = 0;
  int64_t numel = 1;
  int64_t scales = 1;  // entries of the scale tensor
  int64_t size[max_dims], block[max_dims], stride[max_dims];

  // Scale changes only at multiples of 16 elements of the memory order.
  bool aligned = false;
};

// size, block (>= 1) and scale stride of each dimension, outermost in memory first.
Blocks make_blocks(int dims, const int64_t* size, const int64_t* block, const int64_t* stride);

}  // namespace torchqat::cpu
