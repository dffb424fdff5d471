// How the kernels of the weight gradient walk its plan: what a unit of work, a chunk of K and a block of channels are, and which pixels of
// dy stand together in a panel. Shared by the limbs and the bfloat16 form; included by ISA files, everything has internal linkage.
#pragma once
#include <algorithm>
#include <cstdint>

#include "cpu/kernels/conv_grad.h"
#include "cpu/kernels/conv_walk.h"

namespace torchqat::cpu::conv {
namespace {

// A tap, a panel of output channels and a strip of input channels. All taps of a panel come one after the other, while it is in the cache.
struct WeightGradUnit {
  int64_t panel, columns;  // of output channels
  int64_t first, rows;     // input channels of a block
  int64_t kernel_slice;    // the tap's depth
  int64_t shift;           // elements from a channel's first code to the tap's
  int64_t sums;            // where [rows][kPanel] sums lie
};

inline WeightGradUnit weight_grad_unit(const Plan& f, const WeightGradPlan& w, int64_t unit) {
  const int64_t taps = f.weight.taps(), tap = unit % taps, panel = unit / taps / w.channel_strips(), first = unit / taps % w.channel_strips() * w.strip;
  const int64_t dy = tap / f.weight.kernel[2] % f.weight.kernel[1] * f.dilation[1], dx = tap % f.weight.kernel[2] * f.dilation[2];
  WeightGradUnit u;
  u.panel = panel;
  u.columns = w.panel_columns(f, panel);
  u.first = first;
  u.rows = std::min(w.strip, w.block_in - first);
  u.kernel_slice = tap / (f.weight.kernel[1] * f.weight.kernel[2]);
  u.shift = (dy % w.phases[1] * w.phases[2] + dx % w.phases[2]) * w.plane + dy / w.phases[1] * w.pitch + dx / w.phases[2];
  u.sums = ((tap * w.panels() + panel) * w.block_in + first) * kPanel;
  return u;
}

// Calls visit(chunk, runs, run count) for the runs of K of each sum. runs: [kernel depth][segments].
template <typename Visit>
inline void for_each_chunk(const WeightGradPlan& w, const WeightGradUnit& u, const Run* runs, Visit visit) {
  const Run* own = runs + u.kernel_slice * static_cast<int64_t>(w.segments.size());
  for (size_t chunk = 0; chunk + 1 < w.chunks.size(); ++chunk) {
    visit(static_cast<int64_t>(chunk), own + w.chunks[chunk], static_cast<int>(w.chunks[chunk + 1] - w.chunks[chunk]));
  }
}

// Calls visit(first column, columns, offset of the first code, input channels) for each block of channels in the unit's panel.
template <typename Visit>
inline void for_each_block(const Plan& f, const WeightGradPlan& w, const WeightGradUnit& u, Visit visit) {
  int64_t block = w.in_panel > 1 ? u.panel * w.in_panel : u.panel / w.block_panels;
  for (int64_t column = 0; column < u.columns; column += w.block_out, ++block) {
    const int64_t channel = block * w.block_in + u.first, here = std::min(u.rows, f.weight.in_channels() - channel);
    if (here <= 0) break;
    visit(column, std::min(w.block_out, u.columns - column), channel * w.row_stride + u.shift, here);
  }
}

// Calls visit(pixels, n, k, column) for `Together` neighbours of K at a time: `n` elements from `column` of the panel on, of each pixel in
// padded planes g. A pixel that is none reads `nothing`.
template <int Together, typename T, typename Visit>
inline void for_each_panel_group(const Plan& f, const Plan& g, const WeightGradPlan& w, int64_t panel, const uint8_t* planes, const T* nothing,
                                 Visit visit) {
  const int64_t width = g.in[2], held = g.weight.plane_in / static_cast<int64_t>(sizeof(T));
  const int64_t channel = w.panel_channel(panel), n = w.panel_columns(f, panel);
  for (size_t i = 0; i < w.segments.size(); ++i) {
    const Segment& s = w.segments[i];
    int64_t x = 0, row = 0;
    for (int64_t k = s.k, end = s.k + w.length(static_cast<int64_t>(i)); k < end; k += Together) {
      int64_t at[Together];
      for (int64_t& place : at) {
        place = row < s.rows && x < width ? padded_at(g, s.slice, s.row + row, x) : -1;
        if (++x == w.pitch) x = 0, ++row;
      }
      // The panel's channels lie in one plane or more.
      for (int64_t c = channel; c < channel + n;) {
        const int64_t plane = c / held, within = c % held, here = std::min(held - within, channel + n - c);
        const uint8_t* from = planes + plane * g.plane_bytes + within * static_cast<int64_t>(sizeof(T));
        const T* pixels[Together];
        for (int j = 0; j < Together; ++j) pixels[j] = at[j] < 0 ? nothing : reinterpret_cast<const T*>(from + at[j]);
        visit(pixels, here, k, c - channel);
        c += here;
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv
