// The convolution of one sample over Vec lanes; each ISA file gives it the inner kernels below and includes it last:
//   gemm_begin(), gemm_end()
//   gemm(a, row_stride, rows, runs, run_count, panel, columns, init, sums)     sums int32 [rows rounded up to 16][64]
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/conv_int8.h"
#include "cpu/kernels/conv_pad_generic.h"
#include "cpu/vec/transpose.h"
#include "cpu/vec/vec.h"
#include "numerics/limbs.h"
#include "numerics/scaled_sum.h"

namespace torchqat::cpu::conv {
namespace {

using numerics::Vec;

// What the whole sample shares, for each panel of 64 output channels (padded with zeros).
struct Constants {
  int32_t* init;  // [planes][panels][chunks][64]: - zero_point * sum of weights
  float* scale;   // [planes][panels][64]: s_x * s_w
  float* bias;
};

inline Constants make_constants(const Plan& plan, const Task& task, uint8_t* scratch) {
  const WeightLayout& w = plan.weight;
  const int64_t panels = w.planes * w.panels;
  Constants c;
  c.init = reinterpret_cast<int32_t*>(scratch);
  c.scale = reinterpret_cast<float*>(c.init + w.sum_count());
  c.bias = c.scale + panels * kPanel;
  const int32_t* sums = packed_sums(w, task.packed);
  // Wraps as the accumulators do: the final sum fits.
  for (int64_t i = 0; i < w.sum_count(); ++i) {
    c.init[i] = static_cast<int32_t>(0u - static_cast<uint32_t>(task.zero_point) * static_cast<uint32_t>(sums[i]));
  }
  for (int64_t p = 0; p < panels; ++p) {
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      const int64_t column = p % w.panels * kPanel + lane, channel = p / w.panels * w.plane_out + column;
      const bool real = column < w.plane_out && channel < w.out_channels();
      const int64_t at = p * kPanel + lane;
      c.scale[at] = real ? numerics::product_scale(task.input_scale, task.weight_scale[task.per_channel ? channel : 0]) : 0.0f;
      c.bias[at] = real && task.bias != nullptr ? task.bias[channel] : 0.0f;
    }
  }
  return c;
}

// Depthwise: sums[r][lane] = init + sum over taps of code * weight, for channels [channel, channel + columns).
inline void depthwise_rows(const Plan& plan, const uint8_t* a, const int8_t* weight, int64_t channel, int64_t columns,
                           int64_t rows, const int32_t* init, int32_t* sums) {
  const int64_t channels = plan.weight.groups, taps = static_cast<int64_t>(plan.taps.size());
  for (int64_t r = 0; r < rows; ++r) {
    int32_t acc[kPanel];
    std::memcpy(acc, init, sizeof acc);
    const uint8_t* pixel = a + r * plan.row_stride + channel;
    for (int64_t t = 0; t < taps; ++t) {
      const uint8_t* q = pixel + plan.taps[static_cast<size_t>(t)];
      const int8_t* w = weight + t * channels + channel;
      if (columns == kPanel) {
        for (int64_t i = 0; i < kPanel; ++i) acc[i] += static_cast<int32_t>(q[i]) * w[i];
      } else {
        for (int64_t i = 0; i < columns; ++i) acc[i] += static_cast<int32_t>(q[i]) * w[i];
      }
    }
    std::memcpy(sums + r * kPanel, acc, sizeof acc);
  }
}

// Sums of a strip and where its pixels go.
struct Block {
  const int32_t* sums;
  float* values;  // [kStrip][64]; holds the float sums when there are several chunks
  bool summed;
  const float* scale;
  const float* bias;
  int64_t columns;
  int64_t channel;  // first output channel
};

inline void finish_run(const Plan& plan, const Task& task, const Block& b, int64_t row, int64_t count, int64_t pixel) {
  const int64_t channels = plan.weight.out_channels();
  for (int64_t r = row; r < row + count; ++r) {
    float* to = task.channels_last ? task.out + (pixel + r - row) * channels + b.channel : b.values + r * kPanel;
    for (int64_t i = 0; i < b.columns; i += Vec::size) {
      const Vec sum = b.summed ? Vec::load(b.values + r * kPanel + i) : Vec::load_s32(b.sums + r * kPanel + i);
      const Vec y = numerics::scaled_sum(sum, Vec::load(b.scale + i), Vec::load(b.bias + i));
      const int64_t left = b.columns - i;
      if (left >= Vec::size) {
        y.store(to + i);
      } else {
        y.store(to + i, static_cast<int>(left));
      }
    }
  }
  if (!task.channels_last) {
    numerics::transpose_store(b.values + row * kPanel, kPanel, count, b.columns,
                              task.out + b.channel * plan.out_pixels() + pixel, plan.out_pixels());
  }
}

// Position `start` of line `line` of slice `slice` (output depth); in a gathering walk both are 0.
inline void finish(const Plan& plan, const Task& task, const Block& b, int64_t slice, int64_t line, int64_t start, int64_t rows) {
  if (plan.walk != Walk::flat) {
    finish_run(plan, task, b, 0, rows, (slice * plan.out[1] + line) * plan.out[2] + start);
    return;
  }
  for (int64_t r = 0; r < rows;) {
    const int64_t y = (start + r) / plan.padded[2], x = (start + r) % plan.padded[2];
    const int64_t to_row_end = std::min(rows - r, plan.padded[2] - x);
    if (x < plan.out[2]) {
      finish_run(plan, task, b, r, std::min(to_row_end, plan.out[2] - x), (slice * plan.out[1] + y) * plan.out[2] + x);
    }
    r += to_row_end;
  }
}

inline int64_t first_tap(const Plan& plan, int64_t z, int64_t y, int64_t x) {
  return ((z * plan.stride[0] * plan.padded[1] + y * plan.stride[1]) * plan.padded[2] + x * plan.stride[2]) * plan.weight.plane_in;
}

inline void gather(const Plan& plan, const uint8_t* plane, int64_t start, int64_t rows, uint8_t* to) {
  const int64_t row_pixels = plan.out[2], slice_pixels = plan.out[1] * row_pixels;
  for (int64_t r = 0; r < rows; ++r, to += plan.row_stride) {
    const int64_t pixel = start + r;
    const uint8_t* from = plane + first_tap(plan, pixel / slice_pixels, pixel % slice_pixels / row_pixels, pixel % row_pixels);
    for (const Piece& piece : plan.pieces) {
      const uint8_t* source = from + piece.from;
      uint8_t* target = to + piece.to;
      if (piece.bytes > 64) {
        std::memcpy(target, source, static_cast<size_t>(piece.bytes));
      } else {
        // Whole words: what is written too far is overwritten by the next piece or meets a zero weight.
        for (int64_t i = 0; i < piece.bytes; i += 16) std::memcpy(target + i, source + i, 16);
      }
    }
  }
}

void strips(const Plan& plan, const Task& task, int64_t begin, int64_t end, uint8_t* scratch) {
  const WeightLayout& w = plan.weight;
  auto* sums = reinterpret_cast<int32_t*>(scratch);
  auto* values = reinterpret_cast<float*>(sums + (kStrip + 16) * kPanel);
  uint8_t* gathered = reinterpret_cast<uint8_t*>(values + (kStrip + 16) * kPanel);
  const Constants constants = make_constants(plan, task, gathered + (2 * plan.gather_bytes() + 63) / 64 * 64);
  const int run_count = static_cast<int>(plan.runs.size()), limbs = task.low_codes != nullptr ? 2 : 1;
  gemm_begin();
  for (int64_t strip = begin; strip < end; ++strip) {
    const int64_t start = strip % plan.strips_per_line * kStrip, rows = std::min(kStrip, plan.line_len - start);
    const int64_t line = strip / plan.strips_per_line % plan.lines_per_slice;
    const int64_t slice = strip / plan.strips_per_line / plan.lines_per_slice;
    for (int64_t plane = 0; plane < w.planes; ++plane) {
      const uint8_t* rows_of[2] = {task.codes, task.low_codes};
      for (int limb = 0; limb < limbs; ++limb) {
        const uint8_t* from = rows_of[limb] + plane * plan.plane_bytes;
        if (plan.walk == Walk::gather) {
          uint8_t* side = gathered + limb * plan.gather_bytes();
          gather(plan, from, start, rows, side);
          rows_of[limb] = side;
        } else {
          rows_of[limb] = from + first_tap(plan, slice, line, 0) + start * plan.row_stride;
        }
      }
      for (int64_t panel = 0; panel < w.panels; ++panel) {
        const int64_t at = plane * w.panels + panel, first = plane * w.plane_out + panel * kPanel;
        const int64_t columns = std::min({kPanel, w.plane_out - panel * kPanel, w.out_channels() - first});
        const int8_t* codes = packed_codes(task.packed) + at * w.panel_bytes();
        const int32_t* init = constants.init + at * w.chunks * kPanel;
        const bool summed = w.chunks > 1 || limbs > 1;
        const Block block{sums, values, summed, constants.scale + at * kPanel, constants.bias + at * kPanel, columns, first};
        if (w.depthwise()) {
          depthwise_rows(plan, rows_of[0], packed_depthwise(w, task.packed), first, columns, rows, init, sums);
        } else if (!summed) {
          gemm(rows_of[0], plan.row_stride, rows, plan.runs.data(), run_count, codes, columns, init, sums);
        } else if (limbs > 1) {
          int32_t* low = reinterpret_cast<int32_t*>(values);
          gemm(rows_of[0], plan.row_stride, rows, plan.runs.data(), run_count, codes, columns, init, sums);
          gemm(rows_of[1], plan.row_stride, rows, plan.runs.data(), run_count, codes, columns, init, low);
          for (int64_t i = 0; i < rows * kPanel; i += Vec::size) {
            numerics::joined_limbs(Vec::load_s32(sums + i), Vec::load_s32(low + i)).store(values + i);
          }
        } else {
          for (int chunk = 0; chunk < run_count; ++chunk) {
            gemm(rows_of[0], plan.row_stride, rows, &plan.runs[static_cast<size_t>(chunk)], 1, codes, columns, init + chunk * kPanel, sums);
            for (int64_t i = 0; i < rows * kPanel; i += Vec::size) {
              const Vec sum = Vec::load_s32(sums + i);
              (chunk == 0 ? sum : Vec::load(values + i) + sum).store(values + i);
            }
          }
        }
        finish(plan, task, block, slice, line, start, rows);
      }
    }
  }
  gemm_end();
}

}  // namespace
}  // namespace torchqat::cpu::conv
