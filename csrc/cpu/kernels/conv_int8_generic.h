// The convolution of one sample over Vec lanes; each ISA file gives it the inner kernels below and includes it last:
//   gemm_begin(), gemm_end()
//   gemm(a, row_stride, rows, runs, run_count, panel, columns, init, sums)     sums int32 [rows rounded up to 16][64]
//   depthwise(plan, a, weight, channel, columns, rows, init, sums)             from conv_depthwise_{plain,vnni}.h
//   depthwise_lines(plan, task, weight, begin, end, init, block)               pairs of lines with results stored; false if there is no
//                                                                              such form for this kernel
//   reads_plain_codes(plan)                                                    whether depthwise_lines needs no padded planes
//   pixel_tiles(plan, task, begin, end, constants)                             where TORCHQAT_CONV_PIXEL_TILES is defined: strips that are
//                                                                              taken another way; false if they are not
// where gemm reads four codes at a time and no row beyond the last, the file registers reads_plain_rows below instead of the last.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/conv_codes_generic.h"
#include "cpu/kernels/conv_int8.h"
#include "cpu/kernels/conv_pad_generic.h"
#include "cpu/kernels/conv_walk.h"
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
  float* cuts;    // [planes][panels][2][64] and then the windows, for codes: Shortcut
  int32_t* windows;
};

inline Constants make_constants(const Plan& plan, const Task& task, uint8_t* scratch) {
  const WeightLayout& w = plan.weight;
  const int64_t panels = w.planes * w.panels;
  Constants c;
  c.init = reinterpret_cast<int32_t*>(scratch);
  c.scale = reinterpret_cast<float*>(c.init + w.sum_count());
  c.bias = c.scale + panels * kPanel;
  c.cuts = c.bias + panels * kPanel;
  c.windows = reinterpret_cast<int32_t*>(c.cuts + 2 * panels * kPanel);
  const int32_t* sums = packed_sums(w, task.packed);
  // Wraps as the accumulators do: the final sum fits.
  for (int64_t i = 0; i < w.sum_count(); ++i) {
    c.init[i] = static_cast<int32_t>(0u - static_cast<uint32_t>(task.zero_point) * static_cast<uint32_t>(sums[i]));
  }
  const Vec input_scale(task.input_scale);
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t column = p % w.panels * kPanel, channel = p / w.panels * w.plane_out + column;
    const int64_t count = std::min({kPanel, w.plane_out - column, w.out_channels() - channel});
    float* scale = c.scale + p * kPanel;
    float* bias = c.bias + p * kPanel;
    std::memset(scale, 0, kPanel * sizeof(float));
    std::memset(bias, 0, kPanel * sizeof(float));
    for (int64_t i = 0; i < count; i += Vec::size) {
      const int n = static_cast<int>(std::min<int64_t>(Vec::size, count - i));
      const Vec weight_scale = task.per_channel ? Vec::load(task.weight_scale + channel + i, n) : Vec(task.weight_scale[0]);
      numerics::product_scale(input_scale, weight_scale).store(scale + i, n);
      if (task.bias != nullptr) Vec::load(task.bias + channel + i, n).store(bias + i, n);
    }
    if (task.out_codes != nullptr) {
      c.windows[p] = make_shortcut(CodeGrid(task.grid), scale, bias, w.depthwise() ? w.taps() : w.k_pad(), c.cuts + 2 * p * kPanel).window;
    }
  }
  return c;
}

// What the sums of a strip are: exact ones, floats of several chunks, or those of two limbs.
enum class Sums { exact, floats, limbs };

// Sums of a strip and where its pixels go.
struct Block {
  const int32_t* sums;
  float* values;  // [kStrip][64]; holds the float sums when there are several chunks, or the int32 sums of low limbs
  Sums kind;
  const float* scale;
  const float* bias;
  int64_t columns;
  int64_t channel;  // first output channel
  Shortcut cut;     // for codes

  TORCHQAT_INLINE Vec value(int64_t row, int64_t i) const {
    const int64_t at = row * kPanel + i;
    const Vec sum = kind == Sums::floats ? Vec::load(values + at)
                    : kind == Sums::limbs
                        ? numerics::joined_limbs(Vec::load_s32(sums + at), Vec::load_s32(reinterpret_cast<const int32_t*>(values) + at))
                        : Vec::load_s32(sums + at);
    return numerics::scaled_sum(sum, Vec::load(scale + i), Vec::load(bias + i));
  }
};

// Rows [row, row + count) of a block to output pixels [pixel, pixel + count).
inline void finish_run(const Plan& plan, const Task& task, const Block& b, int64_t row, int64_t count, int64_t pixel) {
  const int64_t channels = plan.weight.out_channels();
  for (int64_t r = row; r < row + count; ++r) {
    float* to = task.channels_last ? task.out + (pixel + r - row) * channels + b.channel : b.values + r * kPanel;
    for (int64_t i = 0; i < b.columns; i += Vec::size) {
      Vec y = b.value(r, i);
      const int64_t left = b.columns - i;
      if (task.out_mask != nullptr) {
        const int64_t bit = (pixel + r - row) * channels + b.channel + i;
        uint32_t bits = static_cast<uint32_t>(task.out_mask[bit / 8]) >> (bit % 8);
        if (Vec::size > 8) bits |= static_cast<uint32_t>(task.out_mask[bit / 8 + 1]) << 8;
        y = numerics::select(Vec::from_bits(bits), y, Vec(0.0f));
      }
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

// Rows [row, row + count) of a block as codes of the next layer, `apart` bytes from each other.
inline void write_codes(const Task& task, const Block& b, int64_t row, int64_t count, uint8_t* to, int64_t apart) {
  const CodeGrid grid(task.grid);
  const CodePacker pack(grid);
  if (store_codes(pack, b.cut, b.sums + row * kPanel, b.scale, b.bias, b.columns, count, apart, to)) return;
  for (int64_t r = row; r < row + count; ++r, to += apart) {
    store_codes(grid, pack, b.columns, [&](int64_t i) { return b.value(r, i); }, to);
  }
}

// Rows [row, row + count) of a block to output pixels [pixel, pixel + count), channels last.
inline void finish_codes(const Plan& plan, const Task& task, const Block& b, int64_t row, int64_t count, int64_t pixel) {
  const int64_t channels = plan.weight.out_channels();
  write_codes(task, b, row, count, task.out_codes + pixel * channels + b.channel, channels);
}

// Codes [count][kPanel] of a block to output pixels [pixel, pixel + count), channels first.
inline void scatter_codes(const Plan& plan, const Task& task, const Block& b, const uint8_t* codes, int64_t count, int64_t pixel) {
  alignas(64) uint8_t square[256];
  uint8_t* to = task.out_codes + b.channel * plan.out_pixels() + pixel;
  for (int64_t i = 0; i < b.columns; i += 16) {
    const int64_t here = std::min<int64_t>(16, b.columns - i);
    for (int64_t r = 0; r < count; r += 16) {
      numerics::transpose_bytes(codes + r * kPanel + i, kPanel, square);
      uint8_t* first = to + i * plan.out_pixels() + r;
      if (count - r >= 16) {
        for (int64_t j = 0; j < here; ++j) std::memcpy(first + j * plan.out_pixels(), square + 16 * j, 16);
      } else {
        for (int64_t j = 0; j < here; ++j) {
          std::memcpy(first + j * plan.out_pixels(), square + 16 * j, static_cast<size_t>(count - r));
        }
      }
    }
  }
}

inline void finish(const Plan& plan, const Task& task, const Block& b, const Strip& strip) {
  // Channels first: the codes of the whole strip side by side, so that they are transposed in long runs.
  const bool stage = task.out_codes != nullptr && !task.channels_last;
  alignas(64) uint8_t staged[(kStrip + 16) * kPanel];
  int64_t count = 0, pixel = -1;
  for_each_pixel_run(plan, strip, [&](int64_t row, int64_t rows, int64_t to) __attribute__((always_inline)) {
    if (stage) {
      write_codes(task, b, row, rows, staged + count * kPanel, kPanel);
      if (pixel < 0) pixel = to;
      count += rows;
    } else if (task.out_codes != nullptr) {
      finish_codes(plan, task, b, row, rows, to);
    } else {
      finish_run(plan, task, b, row, rows, to);
    }
  });
  if (count > 0) scatter_codes(plan, task, b, staged, count, pixel);
}

// What is written beyond a piece is overwritten by the next one or meets a zero weight.
inline void gather(const Plan& plan, const uint8_t* plane, const Strip& strip, uint8_t* to) {
  bool whole = true;
  for (const Piece& piece : plan.pieces) whole = whole && piece.bytes <= 16;
  if (whole) {
    gather_pieces(plan, plane, strip, to, [](uint8_t* target, const uint8_t* source, int64_t) { std::memcpy(target, source, 16); });
    return;
  }
  gather_pieces(plan, plane, strip, to, [](uint8_t* target, const uint8_t* source, int64_t bytes) {
    if (bytes > 64) {
      std::memcpy(target, source, static_cast<size_t>(bytes));
    } else {
      for (int64_t b = 0; b < bytes; b += 16) std::memcpy(target + b, source + b, 16);
    }
  });
}

// The block of a panel; sums and values are filled strip by strip.
inline Block block_of(const Constants& c, const Plan& plan, const Task& task, int64_t plane, int64_t panel, int32_t* sums, float* values,
                      Sums kind) {
  const WeightLayout& w = plan.weight;
  const int64_t at = plane * w.panels + panel, first = plane * w.plane_out + panel * kPanel;
  const int64_t columns = std::min({kPanel, w.plane_out - panel * kPanel, w.out_channels() - first});
  return {sums, values, kind, c.scale + at * kPanel, c.bias + at * kPanel, columns, first,
          Shortcut{c.cuts + 2 * at * kPanel, c.cuts + (2 * at + 1) * kPanel, kind != Sums::exact || task.out_codes == nullptr ? -1 : c.windows[at]}};
}

// Whether strips need no padded planes: there is no border, and a row's codes are whole groups.
[[maybe_unused]] bool reads_plain_rows(const Plan& plan) {
  const WeightLayout& w = plan.weight;
  if (w.depthwise()) return reads_plain_codes(plan);
  return w.planes == 1 && plan.walk == Walk::lines && plan.padded == plan.in && w.run_len % 4 == 0;
}

// Pairs of lines [begin, end) of a depthwise convolution, a panel of channels at a time over as many as stay in cache.
inline void depthwise_strips(const Plan& plan, const Task& task, int64_t begin, int64_t end, const Constants& constants, int32_t* sums,
                             float* values) {
  const WeightLayout& w = plan.weight;
  const int8_t* weight = packed_depthwise(w, task.packed);
  constexpr int64_t cached = 1 << 18;
  const int64_t pair_bytes = 2 * plan.stride[1] * plan.padded[2] * w.plane_in, most = std::max<int64_t>(1, cached / pair_bytes);
  const bool limbs = task.low_codes != nullptr;
  for (int64_t from = begin; from < end; from += most) {
    const int64_t to = std::min(from + most, end);
    for (int64_t panel = 0; panel < w.panels; ++panel) {
      const Block block = block_of(constants, plan, task, 0, panel, sums, values, limbs ? Sums::limbs : Sums::exact);
      const int32_t* init = constants.init + panel * kPanel;
      if (depthwise_lines(plan, task, weight, from, to, init, block)) continue;
      for (int64_t line = 2 * from; line < 2 * to; ++line) {
        const int64_t slice = line / (2 * plan.lines_per_slice), y = line % (2 * plan.lines_per_slice);
        if (y >= plan.out[1]) continue;
        for (int64_t start = 0; start < plan.line_len; start += kStrip) {
          const int64_t rows = std::min(kStrip, plan.line_len - start), at = first_tap(plan, slice, y, start);
          depthwise(plan, task.codes + at, weight, block.channel, block.columns, rows, init, sums);
          if (limbs) {
            int32_t* low = reinterpret_cast<int32_t*>(values);
            depthwise(plan, task.low_codes + at, weight, block.channel, block.columns, rows, init, low);
          }
          finish(plan, task, block, {slice, y, start, rows});
        }
      }
    }
  }
}

#if defined(TORCHQAT_CONV_PIXEL_TILES)
bool pixel_tiles(const Plan& plan, const Task& task, int64_t begin, int64_t end, const Constants& constants);
#else
bool pixel_tiles(const Plan&, const Task&, int64_t, int64_t, const Constants&) { return false; }
#endif

void strips(const Plan& plan, const Task& task, int64_t begin, int64_t end, uint8_t* scratch) {
  const WeightLayout& w = plan.weight;
  auto* sums = reinterpret_cast<int32_t*>(scratch);
  auto* values = reinterpret_cast<float*>(sums + (kStrip + 16) * kPanel);
  uint8_t* gathered = reinterpret_cast<uint8_t*>(values + (kStrip + 16) * kPanel);
  const Constants constants = make_constants(plan, task, gathered + (2 * plan.gather_bytes() + 63) / 64 * 64);
  const int run_count = static_cast<int>(plan.runs.size()), limbs = task.low_codes != nullptr ? 2 : 1;
  if (w.depthwise()) {
    depthwise_strips(plan, task, begin, end, constants, sums, values);
    return;
  }
  if (pixel_tiles(plan, task, begin, end, constants)) return;
  gemm_begin();
  for (int64_t strip = begin; strip < end; ++strip) {
    const Strip s = strip_at(plan, strip);
    const int64_t rows = s.rows;
    for (int64_t plane = 0; plane < w.planes; ++plane) {
      const uint8_t* rows_of[2] = {task.plain != nullptr ? task.plain : task.codes, task.low_codes};
      for (int limb = 0; limb < limbs; ++limb) {
        const uint8_t* from = rows_of[limb] + plane * plan.plane_bytes;
        if (plan.walk == Walk::gather) {
          uint8_t* side = gathered + limb * plan.gather_bytes();
          gather(plan, from, s, side);
          rows_of[limb] = side;
        } else {
          rows_of[limb] = from + first_tap(plan, s.slice, s.line, 0) + s.start * plan.row_stride;
        }
      }
      for (int64_t panel = 0; panel < w.panels; ++panel) {
        const int64_t at = plane * w.panels + panel;
        const int8_t* codes = packed_codes(task.packed) + at * w.panel_bytes();
        const int32_t* init = constants.init + at * w.chunks * kPanel;
        const Sums kind = limbs > 1 ? Sums::limbs : w.chunks > 1 ? Sums::floats : Sums::exact;
        const Block block = block_of(constants, plan, task, plane, panel, sums, values, kind);
        const int64_t columns = block.columns;
        if (kind == Sums::exact) {
          gemm(rows_of[0], plan.row_stride, rows, plan.runs.data(), run_count, codes, columns, init, sums);
        } else if (kind == Sums::limbs) {
          int32_t* low = reinterpret_cast<int32_t*>(values);
          gemm(rows_of[0], plan.row_stride, rows, plan.runs.data(), run_count, codes, columns, init, sums);
          gemm(rows_of[1], plan.row_stride, rows, plan.runs.data(), run_count, codes, columns, init, low);
        } else {
          for (int chunk = 0; chunk < run_count; ++chunk) {
            gemm(rows_of[0], plan.row_stride, rows, &plan.runs[static_cast<size_t>(chunk)], 1, codes, columns, init + chunk * kPanel, sums);
            for (int64_t i = 0; i < rows * kPanel; i += Vec::size) {
              const Vec sum = Vec::load_s32(sums + i);
              (chunk == 0 ? sum : Vec::load(values + i) + sum).store(values + i);
            }
          }
        }
        finish(plan, task, block, s);
      }
    }
  }
  gemm_end();
}

}  // namespace
}  // namespace torchqat::cpu::conv
