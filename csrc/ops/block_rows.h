// Blocks of a tensor as the rows of a matrix, for kernels that work on whole rows. Any device.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

struct BlockRows {
  at::Tensor values;  // [rows, length], contiguous; a block's elements in the input's logical order, then zeros
  at::Tensor count;   // [rows] int64: without the zeros; undefined where no block is short
};

// One row per block. A view where blocks are contiguous already, else a copy.
BlockRows block_rows(const at::Tensor& input, at::IntArrayRef block_size, int64_t rows);

}  // namespace torchqat
