// Plans of the convolution gradients. Plain integer work, compiled once.
#include "cpu/kernels/conv_grad.h"

#include "cpu/kernels/interleave_rows.h"
#include "cpu/vec/transpose.h"

#include <algorithm>
#include <cstring>

namespace torchqat::cpu::conv {
namespace {

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

WeightGradPlan make_weight_grad_plan(const Plan& f) {
  WeightGradPlan p;
  p.merge = f.weight.merge;
  p.blocks = f.weight.planes;
  p.block_in = f.weight.plane_in;
  p.block_out = f.weight.plane_out;
  // Kernels compute columns by sixteens: the last block of a panel has room for that.
  p.in_panel = std::max<int64_t>(1, (kPanel - round_up(p.block_out, 16)) / p.block_out + 1);
  if (p.block_out > kPanel) p.in_panel = 1;
  p.block_panels = ceil_div(p.block_out, kPanel);
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

void WeightGradPlan::share_among(const Plan& forward, int64_t threads) {
  const int64_t by_strip = forward.weight.taps() * panels();
  for (int64_t strips = channel_strips(); strips <= ceil_div(block_in, 16); ++strips) {
    strip = std::min(kStrip, round_up(ceil_div(block_in, strips), 16));
    const int64_t all = by_strip * channel_strips();
    if (all % threads == 0 || all >= 8 * threads) return;
  }
}

int64_t InputGradPlan::largest_class() const {
  int64_t most = 0;
  for (const InputGradClass& c : classes) most = std::max(most, c.plan.out_pixels());
  return most;
}

namespace {

// Forward taps of a class, in the order of its own kernel.
std::vector<int64_t> class_taps(const WeightLayout& w, const InputGradClass& of) {
  std::vector<int64_t> taps;
  for (int64_t z : of.taps[0]) {
    for (int64_t y : of.taps[1]) {
      for (int64_t x : of.taps[2]) taps.push_back((z * w.kernel[1] + y) * w.kernel[2] + x);
    }
  }
  return taps;
}

void class_weight(const WeightLayout& w, const std::vector<int64_t>& taps, const int8_t* codes, FilterOrder order, int8_t* rotated) {
  const FilterSteps steps(w, order);
  const auto count = static_cast<int64_t>(taps.size());
  for (int64_t g = 0; g < w.groups; ++g) {
    for (int64_t o = 0; o < w.group_out; ++o) {
      for (int64_t c = 0; c < w.group_in; ++c) {
        const int8_t* from = codes + (g * w.group_out + o) * w.group_in * w.taps() + c * steps.channel;
        int8_t* to = rotated + ((g * w.group_in + c) * w.group_out + o) * count;
        for (int64_t t = 0; t < count; ++t) to[t] = from[taps[static_cast<size_t>(t)] * steps.tap];
      }
    }
  }
}

// Codes of input channels [column, column + n) of a group, [taps of the class][group_out rounded up to 16][64].
void gather_taps(const WeightLayout& w, const std::vector<int64_t>& taps, const int8_t* codes, int64_t group, int64_t column, int64_t n,
                 int64_t pitch, uint8_t* to) {
  const int64_t all = w.out_channels() * w.group_in * w.taps(), forward = w.taps();
  uint8_t square[256];
  for (int64_t o = 0; o < w.group_out; ++o) {
    const int64_t at = ((group * w.group_out + o) * w.group_in + column) * forward;
    for (int64_t lane = 0; lane < n; lane += 16) {
      const int64_t here = std::min<int64_t>(16, n - lane), from = at + lane * forward;
      for (int64_t t = 0; t < forward; t += 16) {
        const bool square_fits = here == 16 && from + t + 15 * forward + 16 <= all;
        if (square_fits) numerics::transpose_bytes(reinterpret_cast<const uint8_t*>(codes + from + t), forward, square);
        for (size_t i = 0; i < taps.size(); ++i) {
          if (taps[i] < t || taps[i] >= t + 16) continue;
          uint8_t* target = to + (static_cast<int64_t>(i) * pitch + o) * kPanel + lane;
          if (square_fits) {
            std::memcpy(target, square + 16 * (taps[i] - t), 16);
          } else {
            for (int64_t l = 0; l < here; ++l) target[l] = static_cast<uint8_t>(codes[from + l * forward + taps[i]]);
          }
        }
      }
    }
  }
}

// sums[i] += each of `count` rows of n codes, `pitch` apart.
void add_rows(const int8_t* codes, int64_t pitch, int64_t count, int64_t n, int32_t* sums) {
  for (int64_t first = 0; first < count; first += 256) {  // what 16 bits hold
    int16_t some[kPanel] = {};
    for (int64_t r = first; r < std::min(count, first + 256); ++r) {
      const int8_t* row = codes + r * pitch;
      if (n == kPanel) {
        for (int64_t i = 0; i < kPanel; ++i) some[i] = static_cast<int16_t>(some[i] + row[i]);
      } else {
        for (int64_t i = 0; i < n; ++i) some[i] = static_cast<int16_t>(some[i] + row[i]);
      }
    }
    for (int64_t i = 0; i < n; ++i) sums[i] += some[i];
  }
}

// pack_class of channels-last codes whose output channels come in fours: what a panel holds is rows of them side by side.
void pack_class_rows(const WeightLayout& w, const InputGradClass& of, const std::vector<int64_t>& taps, const int8_t* codes, uint8_t* panels,
                     int32_t* sums) {
  const WeightLayout& t = of.plan.weight;
  const int64_t filter = w.group_in * w.taps();
  for (int64_t at = 0; at < t.planes * t.panels; ++at) {
    const int64_t column = at % t.panels * kPanel, n = std::min(kPanel, w.group_in - column);
    uint8_t* panel = panels + at * t.panel_bytes();
    int32_t* sum = sums + at * kPanel;
    std::memset(panel, 0, static_cast<size_t>(t.panel_bytes()));
    std::memset(sum, 0, kPanel * sizeof(int32_t));
    for (size_t i = 0; i < taps.size(); ++i) {
      const auto tap = static_cast<int64_t>(i);
      const int64_t k = t.k_offset(tap / (t.kernel[1] * t.kernel[2]), tap / t.kernel[2] % t.kernel[1], tap % t.kernel[2], 0);
      const int8_t* from = codes + at / t.panels * w.group_out * filter + taps[i] * w.group_in + column;
      for (int64_t o = 0; o < w.group_out; o += 4) {
        const int8_t* rows[4];
        for (int64_t j = 0; j < 4; ++j) rows[j] = from + (o + j) * filter;
        interleave_rows<0>(rows, n, panel + (k + o) * kPanel);
      }
      add_rows(from, filter, w.group_out, n, sum);
    }
  }
}

}  // namespace

void pack_class(const WeightLayout& w, const InputGradClass& of, const int8_t* codes, FilterOrder order, uint8_t* packed) {
  const WeightLayout& t = of.plan.weight;
  const std::vector<int64_t> taps = class_taps(w, of);
  const bool last = order == FilterOrder::channels_last;
  if (t.merge > 1 || t.chunks > 1 || (last && w.group_out % 4 != 0)) {
    std::vector<int8_t> rotated(static_cast<size_t>(t.out_channels() * t.group_in) * taps.size());
    class_weight(w, taps, codes, order, rotated.data());
    pack_weight(t, rotated.data(), packed);
    return;
  }
  std::memset(packed, 0, static_cast<size_t>(kHeaderBytes));
  uint8_t* panels = packed + kHeaderBytes;
  auto* sums = reinterpret_cast<int32_t*>(panels + t.weight_bytes());
  if (last) {
    pack_class_rows(w, of, taps, codes, panels, sums);
    return;
  }
  const int64_t pitch = round_up(w.group_out, 16), words = t.k_pad() / 4;
  std::vector<uint8_t> gathered(taps.size() * static_cast<size_t>(pitch * kPanel));
  std::vector<float> rows(static_cast<size_t>(kPanel * words));  // moved four codes at a time
  uint8_t square[256];
  for (int64_t at = 0; at < t.planes * t.panels; ++at) {
    const int64_t column = at % t.panels * kPanel, n = std::min(kPanel, w.group_in - column);
    gather_taps(w, taps, codes, at / t.panels, column, n, pitch, gathered.data());
    auto* row = reinterpret_cast<uint8_t*>(rows.data());
    std::memset(row, 0, rows.size() * sizeof(float));
    for (size_t i = 0; i < taps.size(); ++i) {
      const auto tap = static_cast<int64_t>(i);
      const int64_t k = t.k_offset(tap / (t.kernel[1] * t.kernel[2]), tap / t.kernel[2] % t.kernel[1], tap % t.kernel[2], 0);
      for (int64_t o = 0; o < w.group_out; o += 16) {
        const auto bytes = static_cast<size_t>(std::min<int64_t>(16, w.group_out - o));
        for (int64_t lane = 0; lane < n; lane += 16) {
          numerics::transpose_bytes(gathered.data() + (tap * pitch + o) * kPanel + lane, kPanel, square);
          for (int64_t l = 0; l < std::min<int64_t>(16, n - lane); ++l) {
            std::memcpy(row + (lane + l) * t.k_pad() + k + o, square + 16 * l, bytes);
          }
        }
      }
    }
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      sums[at * kPanel + lane] = sum_codes(reinterpret_cast<const int8_t*>(row) + lane * t.k_pad(), t.k_pad());
    }
    numerics::transpose_store(rows.data(), words, kPanel, words, reinterpret_cast<float*>(panels + at * t.panel_bytes()), kPanel);
  }
}

void scatter_class(const Plan& f, const InputGradClass& of, const Dims& stride, bool channels_last, const float* from, float* to) {
  const int64_t channels = f.weight.in_channels(), pixels = of.plan.out_pixels();
  int64_t pixel = 0;
  for (int64_t z = of.phase[0]; z < f.in[0]; z += stride[0]) {
    for (int64_t y = of.phase[1]; y < f.in[1]; y += stride[1]) {
      const int64_t row = (z * f.in[1] + y) * f.in[2];
      if (channels_last) {
        for (int64_t x = of.phase[2]; x < f.in[2]; x += stride[2], ++pixel) {
          std::memcpy(to + (row + x) * channels, from + pixel * channels, static_cast<size_t>(channels) * sizeof(float));
        }
        continue;
      }
      for (int64_t c = 0; c < channels; ++c) {
        const float* values = from + c * pixels + pixel;
        float* target = to + c * f.in_pixels() + row;
        for (int64_t x = of.phase[2], i = 0; x < f.in[2]; x += stride[2], ++i) target[x] = values[i];
      }
      pixel += of.plan.out[2];
    }
  }
}

InputGradPlan make_input_grad_plan(const Plan& f, int64_t tile_rows) {
  InputGradPlan result;
  const WeightLayout& w = f.weight;
  // Depthwise and very narrow groups would waste the panels of the weight gradient; a pitch beyond K has no plan.
  if (w.group_out < 8 || w.group_in < 2 || w.group_out * w.taps() > kSegmentMax) return result;
  if (ceil_div(f.padded[2], f.stride[2]) > kSegmentMax - 64) return result;
  result.stride = f.stride;
  const WeightLayout all = weight_layout(w.groups, w.group_out, w.group_in, w.spatial_dims, w.kernel);
  // One dimension at a time: input pixel phase + stride * i meets tap t at output pixel i + (phase + padding - t * dilation)
  // / stride, where that divides.
  struct Line {
    int64_t phase, count, dilation, first;  // first: output pixel under the last tap, for i = 0
    std::vector<int64_t> taps;
  };
  std::vector<Line> lines[3];
  Dims before{}, after{};
  for (size_t d = 0; d < 3; ++d) {
    for (int64_t phase = 0; phase < std::min(f.stride[d], f.in[d]); ++phase) {
      Line line{phase, ceil_div(f.in[d] - phase, f.stride[d]), 1, 0, {}};
      for (int64_t t = w.kernel[d] - 1; t >= 0; --t) {
        if ((phase + f.padding[d] - t * f.dilation[d]) % f.stride[d] == 0) line.taps.push_back(t);
      }
      if (line.taps.empty()) {
        result.gaps = true;
        continue;
      }
      line.first = (phase + f.padding[d] - line.taps.front() * f.dilation[d]) / f.stride[d];
      if (line.taps.size() > 1) line.dilation = (line.taps[0] - line.taps[1]) * f.dilation[d] / f.stride[d];
      const int64_t last = line.first + line.count - 1 + (static_cast<int64_t>(line.taps.size()) - 1) * line.dilation;
      before[d] = std::max(before[d], -line.first);
      after[d] = std::max(after[d], last - (f.out[d] - 1));
      lines[d].push_back(line);
    }
  }
  const Dims extra{after[0] - before[0], after[1] - before[1], after[2] - before[2]};
  result.padded = make_plan(all, f.out, {1, 1, 1}, before, {1, 1, 1}, tile_rows, extra);
  for (const Line& z : lines[0]) {
    for (const Line& y : lines[1]) {
      for (const Line& x : lines[2]) {
        InputGradClass c;
        const Line* along[3] = {&z, &y, &x};
        Dims kernel{}, dilation{}, out{}, start{};
        for (size_t d = 0; d < 3; ++d) {
          c.phase[d] = along[d]->phase;
          c.taps[d] = along[d]->taps;
          kernel[d] = static_cast<int64_t>(along[d]->taps.size());
          dilation[d] = along[d]->dilation;
          out[d] = along[d]->count;
          start[d] = before[d] + along[d]->first;
        }
        const WeightLayout layout = weight_layout(w.groups, w.group_out, w.group_in, w.spatial_dims, kernel);
        // All classes read the same planes.
        if (layout.merge != all.merge) return result;
        c.plan = make_plan(layout, f.out, {1, 1, 1}, before, dilation, tile_rows, extra, &out);
        c.offset = ((start[0] * c.plan.padded[1] + start[1]) * c.plan.padded[2] + start[2]) * layout.plane_in;
        result.classes.push_back(std::move(c));
      }
    }
  }
  result.possible = true;
  return result;
}

int64_t weight_grad_scratch_bytes() { return 2 * (kStrip + 16) * kPanel * 4 + kPanel * 4 * 3 + 64; }

}  // namespace torchqat::cpu::conv
