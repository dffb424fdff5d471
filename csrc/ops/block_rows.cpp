// Blocks of a tensor as the rows of a matrix.
#include "ops/block_rows.h"

namespace torchqat {

BlockRows block_rows(const at::Tensor& input, at::IntArrayRef block_size, int64_t rows) {
  if (block_size.empty()) return {input.contiguous().view({1, input.numel()}), {}};
  const int64_t dims = input.dim();
  std::vector<int64_t> split, order(2 * dims), padding(2 * dims, 0);
  at::Tensor count;
  bool padded = false;
  for (int64_t d = 0; d < dims; ++d) {
    const int64_t n = input.size(d), width = block_size[d] == -1 ? n : std::min(block_size[d], n);
    const int64_t blocks = (n + width - 1) / width;
    split.insert(split.end(), {blocks, width});
    order[d] = 2 * d;
    order[dims + d] = 2 * d + 1;
    padding[2 * (dims - 1 - d) + 1] = blocks * width - n;
    padded |= blocks * width != n;
    at::Tensor own = at::full({blocks}, width, input.options().dtype(at::kLong));
    own[blocks - 1].fill_(n - (blocks - 1) * width);
    count = d == 0 ? own : count.unsqueeze(-1) * own;
  }
  const at::Tensor whole = padded ? at::constant_pad_nd(input, padding) : input;
  return {whole.reshape(split).permute(order).reshape({rows, -1}).contiguous(),
          padded ? count.reshape({rows}).contiguous() : at::Tensor()};
}

}  // namespace torchqat
