// Plans of the convolution gradients. Plain integer work, compiled once.
#include "cpu/kernels/conv_grad.h"

#include <algorithm>

namespace torchqat::cpu::conv {
namespace {

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

WeightGradPlan make_weight_grad_plan(const Plan& f) {
  WeightGradPlan p;
  p.groups = f.weight.groups;
  p.group_in = f.weight.group_in;
  p.group_out = f.weight.group_out;
  p.panels = ceil_div(p.group_out, kPanel);
  p.phases = f.stride;
  p.pitch = ceil_div(f.padded[2], f.stride[2]);
  const int64_t phase_rows = ceil_div(f.padded[1], f.stride[1]);
  // An odd number of cache lines: channels of the same pixel then spread over the cache's sets.
  p.plane = round_up(phase_rows * p.pitch, 64);
  const int64_t per_channel = f.stride[1] * f.stride[2];
  if ((p.plane / 64) % 2 == 0) p.plane += 64;
  p.row_stride = per_channel * p.plane;
  p.slice_bytes = f.weight.in_channels() * p.row_stride;
  const int64_t most_rows = std::max<int64_t>(1, (kSegmentMax - 64) / p.pitch);
  int64_t k = 0, in_chunk = 0;
  p.chunks.push_back(0);
  for (int64_t slice = 0; slice < f.out[0]; ++slice) {
    for (int64_t row = 0; row < f.out[1]; row += most_rows) {
      const int64_t rows = std::min(most_rows, f.out[1] - row), length = round_up(rows * p.pitch, 64);
      if (in_chunk + length > kSegmentMax && in_chunk > 0) {
        p.chunks.push_back(static_cast<int64_t>(p.segments.size()));
        in_chunk = 0;
      }
      p.segments.push_back({slice, row, rows, k});
      k += length;
      in_chunk += length;
    }
  }
  p.chunks.push_back(static_cast<int64_t>(p.segments.size()));
  p.k_total = k;
  for (int64_t z = 0; z < f.weight.kernel[0]; ++z) {
    for (size_t i = 0; i < p.segments.size(); ++i) {
      const Segment& s = p.segments[i];
      p.runs.push_back({(s.slice * f.stride[0] + z * f.dilation[0]) * p.slice_bytes + s.row * p.pitch, s.k * kPanel,
                        p.length(static_cast<int64_t>(i)) / 4});
    }
  }
  for (int64_t step = 0; step < k; step += 64) p.steps.push_back({0, step * kPanel, 16});
  return p;
}

void rotate_weight(const WeightLayout& w, const int8_t* codes, int8_t* rotated) {
  const int64_t taps = w.taps();
  for (int64_t g = 0; g < w.groups; ++g) {
    for (int64_t o = 0; o < w.group_out; ++o) {
      for (int64_t c = 0; c < w.group_in; ++c) {
        const int8_t* from = codes + ((g * w.group_out + o) * w.group_in + c) * taps;
        int8_t* to = rotated + ((g * w.group_in + c) * w.group_out + o) * taps;
        for (int64_t t = 0; t < taps; ++t) to[t] = from[taps - 1 - t];
      }
    }
  }
}

InputGradPlan make_input_grad_plan(const Plan& f, int64_t tile_rows) {
  InputGradPlan result;
  const WeightLayout& w = f.weight;
  // Depthwise and very narrow groups would waste the panels of the weight gradient; a pitch beyond K has no plan.
  if (w.group_out < 8 || w.group_in < 2 || w.group_out * w.taps() > kSegmentMax) return result;
  if (ceil_div(f.padded[2], f.stride[2]) > kSegmentMax - 64) return result;
  const WeightLayout t = weight_layout(w.groups, w.group_out, w.group_in, w.spatial_dims, w.kernel);
  Dims padding{}, extra{};
  for (size_t d = 0; d < 3; ++d) {
    padding[d] = f.dilation[d] * (w.kernel[d] - 1) - f.padding[d];
    if (padding[d] < 0) return result;
    // What the strided forward left over at the far end.
    extra[d] = f.padded[d] - f.dilation[d] * (w.kernel[d] - 1) - 1 - (f.out[d] - 1) * f.stride[d];
  }
  result.possible = true;
  result.plan = make_plan(t, f.out, {1, 1, 1}, padding, f.dilation, tile_rows, f.stride, extra);
  return result;
}

int64_t weight_grad_scratch_bytes() { return 2 * (kStrip + 16) * kPanel * 4 + kPanel * 4 * 3 + 64; }

}  // namespace torchqat::cpu::conv
