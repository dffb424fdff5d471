// Which thread sums which part of a tensor for its blocks.
#include "ops/torch_headers.h"

#include "cpu/block_sums.h"

namespace torchqat::cpu {

void sum_blocks(LearnedArgs args, void (*kernel)(const LearnedArgs&, int64_t, int64_t), double* ds, double* dz) {
  const Blocks& blocks = *args.blocks;
  const int64_t steps = (blocks.size[0] + blocks.block[0] - 1) / blocks.block[0];
  const int64_t step = blocks.numel / blocks.size[0] * blocks.block[0];
  args.ds = ds;
  args.dz = dz;
  // Entries of their own for every outer step: whole steps go to threads, each entry is summed by one of them.
  if (steps >= 64 && blocks.stride[0] != 0) {
    at::parallel_for(0, steps, std::max<int64_t>(1, grain / step), [&](int64_t first, int64_t last) {
      kernel(args, first * step, std::min(last * step, blocks.numel));
    });
    return;
  }
  // Otherwise a number of pieces that depends on the tensor alone, each with sums of its own, added in order.
  const int64_t tiles = (blocks.numel + tile - 1) / tile;
  const int64_t pieces = std::clamp<int64_t>(std::min<int64_t>(64, (int64_t{1} << 22) / blocks.scales), 1, tiles);
  const int64_t piece = (tiles + pieces - 1) / pieces * tile;
  std::vector<double> sums(2 * pieces * blocks.scales);
  at::parallel_for(0, pieces, std::max<int64_t>(1, grain / piece), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      LearnedArgs own = args;
      own.ds = sums.data() + 2 * p * blocks.scales;
      own.dz = dz == nullptr ? nullptr : own.ds + blocks.scales;
      kernel(own, std::min(p * piece, blocks.numel), std::min((p + 1) * piece, blocks.numel));
    }
  });
  for (int64_t p = 0; p < pieces; ++p) {
    const double* own = sums.data() + 2 * p * blocks.scales;
    for (int64_t i = 0; i < blocks.scales; ++i) ds[i] += own[i];
    if (dz == nullptr) continue;
    for (int64_t i = 0; i < blocks.scales; ++i) dz[i] += own[blocks.scales + i];
  }
}

}  // namespace torchqat::cpu
