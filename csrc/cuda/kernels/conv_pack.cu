// Weight codes of a convolution to the layout of the CPU (cpu/kernels/conv_plan.h), on the device: a training step quantises and
// packs its weight every time.
#include "cuda/kernels/conv_int8.h"
#include "cuda/kernels/int8_tile.cuh"
#include "cuda/kernels/runtime.cuh"

namespace torchqat::cuda {
namespace {

constexpr int threads = 256;

// The weight of output `column` of a plane at place k of K; 0 where the layout has padding.
__device__ __forceinline__ int8_t weight_at(const ConvPack& p, int64_t plane, int64_t column, int64_t k) {
  const int64_t out = plane * p.plane_out + column;
  if (column >= p.plane_out || out >= p.groups * p.group_out) return 0;
  const int64_t run = k / p.run_pad, within = k % p.run_pad, row_len = p.kernel[2] * p.plane_in;
  if (within >= p.run_len) return 0;
  const int64_t row = p.patch ? within / row_len : run, x = within % row_len;
  const int64_t tap = row * p.kernel[2] + x / p.plane_in, channel = x % p.plane_in;
  const int64_t group = out / p.group_out, own = channel - group % p.merge * p.group_in;
  if (own < 0 || own >= p.group_in) return 0;
  return p.codes[(out * p.group_in + own) * (p.kernel[0] * p.kernel[1] * p.kernel[2]) + tap];
}

// A thread per four neighbouring k of a column.
__global__ void __launch_bounds__(threads) pack_panels_kernel(const __grid_constant__ ConvPack p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, quads = p.k_pad / 4;
  if (i >= p.planes * p.panels * quads * kPanelColumns) return;
  const int64_t lane = i % kPanelColumns, quad = i / kPanelColumns % quads, at = i / (kPanelColumns * quads);
  const int64_t column = at % p.panels * kPanelColumns + lane;
  uint32_t word = 0;
  for (int j = 0; j < 4; ++j) {
    word |= static_cast<uint32_t>(static_cast<uint8_t>(weight_at(p, at / p.panels, column, quad * 4 + j))) << (8 * j);
  }
  reinterpret_cast<uint32_t*>(p.panel_codes)[i] = word;
}

// A warp per column and chunk of K.
__global__ void __launch_bounds__(threads) pack_sums_kernel(const __grid_constant__ ConvPack p) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / warp_size;
  const bool used = i < p.planes * p.panels * p.chunks * kPanelColumns;
  const int64_t column = i % kPanelColumns, chunk = i / kPanelColumns % p.chunks, at = i / (kPanelColumns * p.chunks);
  int32_t sum = 0;
  if (used) {
    const int64_t first = chunk * kSegment, stop = first + kSegment;
    const int64_t end = p.chunks > 1 && stop < p.k_pad ? stop : p.k_pad;
    const int8_t* panel = p.panel_codes + at * p.k_pad * kPanelColumns + column * 4;
    for (int64_t quad = first / 4 + lane(); quad < end / 4; quad += warp_size) {
      for (int j = 0; j < 4; ++j) sum += panel[quad * 4 * kPanelColumns + j];
    }
  }
  sum = warp_reduce(sum, [](int32_t x, int32_t y) { return x + y; });
  if (used && lane() == 0) p.sums[i] = sum;
}

__global__ void __launch_bounds__(threads) pack_depthwise_kernel(const __grid_constant__ ConvPack p) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (channel >= p.panels * kPanelColumns) return;
  int32_t sum = 0;
  if (channel < p.groups) {
    const int64_t taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
    for (int64_t t = 0; t < taps; ++t) {
      const int8_t code = p.codes[channel * taps + t];
      p.depthwise_codes[t * p.groups + channel] = code;
      sum += code;
    }
  }
  p.sums[channel] = sum;
}

}  // namespace

void conv_pack(const ConvPack& p, Stream stream) {
  if (p.depthwise) {
    launch(pack_depthwise_kernel, blocks_for(p.panels * kPanelColumns, threads), dim3(threads), stream, p);
    return;
  }
  const int64_t words = p.planes * p.panels * (p.k_pad / 4) * kPanelColumns;
  if (words > 0) launch(pack_panels_kernel, blocks_for(words, threads), dim3(threads), stream, p);
  const int64_t sums = p.planes * p.panels * p.chunks * kPanelColumns;
  if (sums > 0) launch(pack_sums_kernel, blocks_for(sums * warp_size, threads), dim3(threads), stream, p);
}

}  // namespace torchqat::cuda
