// Weight codes to the grouped layout with a byte per code, on the device: a training step packs its weight every time.
#include "cuda/kernels/linear_grouped.h"
#include "cuda/kernels/runtime.cuh"

namespace torchqat::cuda {
namespace {

constexpr int threads = 256;

// A thread per dword: four neighbouring k of a column.
__global__ void __launch_bounds__(threads) pack_grouped_kernel(const __grid_constant__ PackGrouped p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  auto* words = reinterpret_cast<uint32_t*>(p.packed);
  if (i < 16) words[i] = p.header.words[i];
  const auto& w = p.layout;
  if (i >= w.panels * w.panel_bytes / 4) return;
  const int64_t lines = w.group_bytes / cpu::kGroupedLine;
  const int64_t lane = i % cpu::kGroupedColumns, line = i / cpu::kGroupedColumns, group = line / lines % w.groups;
  const int64_t column = line / (lines * w.groups) * cpu::kGroupedColumns + lane, in_group = line % lines * 4;
  uint32_t word = 0;
  for (int j = 0; j < 4; ++j) {
    const int64_t k = group * w.group + in_group + j;
    const bool inside = column < w.n && in_group + j < w.group && k < w.k;
    const int32_t code = inside ? p.codes[column * w.k + k] : 0;
    word |= static_cast<uint32_t>(code + w.offset) << (8 * j);
  }
  words[16 + i] = word;
}

}  // namespace

void pack_grouped(const PackGrouped& p, Stream stream) {
  const int64_t words = p.layout.bytes() / 4;
  launch(pack_grouped_kernel, blocks_for(words > 16 ? words : 16, threads), dim3(threads), stream, p);
}

}  // namespace torchqat::cuda
