// The bfloat16 gradients of one sample over Vec lanes. The including ISA file defines, before it:
//   gemm_begin(), gemm_end()
//   gemm(a, row_stride, rows, runs, run_count, panel, columns, sums)        sums float [rows rounded up to 16][64]
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/conv_bf16.h"
#include "cpu/vec/transpose.h"
#include "cpu/vec/vec.h"
#include "numerics/scaled_sum.h"

namespace torchqat::cpu::conv {
namespace {

using numerics::Vec;

// Bytes from the start of a plane to interior pixel (z, y, x).
inline int64_t interior(const Plan& p, int64_t z, int64_t y, int64_t x) {
  return (((z + p.padding[0]) * p.padded[1] + y + p.padding[1]) * p.padded[2] + x + p.padding[2]) * p.weight.plane_in;
}

// Channels of one pixel, times their scales, to their planes.
inline void put_pixel(const Plan& p, const float* values, const float* scale, int64_t channels, uint8_t* to) {
  const int64_t held = p.weight.plane_in / 2;
  for (int64_t first = 0; first < channels; first += held, to += p.plane_bytes) {
    const int64_t n = std::min(held, channels - first);
    for (int64_t c = 0; c < n; c += Vec::size) {
      const int left = static_cast<int>(std::min<int64_t>(Vec::size, n - c));
      const Vec value = Vec::load(values + first + c, left) * Vec::load(scale + first + c, left);
      if (left == Vec::size) {
        value.store(reinterpret_cast<Bf16*>(to + 2 * c));
      } else {
        Bf16 few[Vec::size];
        value.store(few);
        std::memcpy(to + 2 * c, few, static_cast<size_t>(2 * left));
      }
    }
  }
}

void pad(const Plan& p, const GradSource& s, int64_t begin, int64_t end, uint8_t* planes, uint8_t* scratch) {
  auto* staged = reinterpret_cast<float*>(scratch);
  const int64_t row_bytes = p.padded[2] * p.weight.plane_in;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t plane = 0; plane < p.weight.planes; ++plane) {
      std::memset(planes + plane * p.plane_bytes + row * row_bytes, 0, static_cast<size_t>(row_bytes));
    }
    const int64_t z = row / p.padded[1] - p.padding[0], y = row % p.padded[1] - p.padding[1];
    if (z < 0 || z >= p.in[0] || y < 0 || y >= p.in[1]) continue;
    const int64_t pixel = (z * p.in[1] + y) * p.in[2];
    uint8_t* to = planes + interior(p, z, y, 0);
    for (int64_t x = 0; x < p.in[2]; x += 16) {
      const int64_t n = std::min<int64_t>(16, p.in[2] - x);
      if (!s.channels_last) numerics::transpose_store(s.values + pixel + x, s.pixels, s.channels, n, staged, s.channels);
      const float* from = s.channels_last ? s.values + (pixel + x) * s.channels : staged;
      for (int64_t i = 0; i < n; ++i) put_pixel(p, from + i * s.channels, s.channel_scale, s.channels, to + (x + i) * p.weight.plane_in);
    }
  }
}

// Rows [row, row + count) of sums to pixels [pixel, pixel + count).
inline void put_run(const Plan& plan, const float* sums, int64_t row, int64_t count, int64_t pixel, int64_t channel, int64_t columns,
                    bool channels_last, float* out) {
  const int64_t channels = plan.weight.out_channels();
  if (!channels_last) {
    numerics::transpose_store(sums + row * kPanel, kPanel, count, columns, out + channel * plan.out_pixels() + pixel, plan.out_pixels());
    return;
  }
  for (int64_t r = 0; r < count; ++r) {
    std::memcpy(out + (pixel + r) * channels + channel, sums + (row + r) * kPanel, static_cast<size_t>(columns) * sizeof(float));
  }
}

void strips(const Plan& plan, const uint8_t* planes, const uint8_t* packed, bool channels_last, int64_t begin, int64_t end, float* out,
            uint8_t* scratch) {
  const WeightLayout& w = plan.weight;
  auto* sums = reinterpret_cast<float*>(scratch);
  uint8_t* gathered = reinterpret_cast<uint8_t*>(sums + (kStrip + 16) * kPanel);
  // What pieces do not cover meets weights of zero, and must be numbers.
  if (plan.walk == Walk::gather) std::memset(gathered, 0, static_cast<size_t>(plan.gather_bytes()));
  const auto first_tap = [&](int64_t z, int64_t y, int64_t x) {
    return ((z * plan.stride[0] * plan.padded[1] + y * plan.stride[1]) * plan.padded[2] + x * plan.stride[2]) * w.plane_in;
  };
  gemm_begin();
  for (int64_t strip = begin; strip < end; ++strip) {
    const int64_t start = strip % plan.strips_per_line * kStrip, rows = std::min(kStrip, plan.line_len - start);
    const int64_t line = strip / plan.strips_per_line % plan.lines_per_slice;
    const int64_t slice = strip / plan.strips_per_line / plan.lines_per_slice;
    for (int64_t plane = 0; plane < w.planes; ++plane) {
      const uint8_t* from = planes + plane * plan.plane_bytes;
      if (plan.walk == Walk::gather) {
        const int64_t row_pixels = plan.out[2], slice_pixels = plan.out[1] * row_pixels;
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t pixel = start + r;
          const uint8_t* tap = from + first_tap(pixel / slice_pixels, pixel % slice_pixels / row_pixels, pixel % row_pixels);
          for (const Piece& piece : plan.pieces) {
            std::memcpy(gathered + r * plan.row_stride + piece.to, tap + piece.from, static_cast<size_t>(piece.bytes));
          }
        }
        from = gathered;
      } else {
        from += first_tap(slice, line, 0) + start * plan.row_stride;
      }
      for (int64_t panel = 0; panel < w.panels; ++panel) {
        const int64_t at = plane * w.panels + panel, channel = plane * w.plane_out + panel * kPanel;
        const int64_t columns = std::min({kPanel, w.plane_out - panel * kPanel, w.out_channels() - channel});
        gemm(from, plan.row_stride, rows, plan.runs.data(), static_cast<int>(plan.runs.size()),
             reinterpret_cast<const uint8_t*>(packed_codes(packed)) + at * w.panel_bytes(), columns, sums);
        if (plan.walk != Walk::flat) {
          put_run(plan, sums, 0, rows, (slice * plan.out[1] + line) * plan.out[2] + start, channel, columns, channels_last, out);
          continue;
        }
        for (int64_t r = 0; r < rows;) {
          const int64_t y = (start + r) / plan.padded[2], x = (start + r) % plan.padded[2], to_row_end = std::min(rows - r, plan.padded[2] - x);
          if (x < plan.out[2]) {
            put_run(plan, sums, r, std::min(to_row_end, plan.out[2] - x), (slice * plan.out[1] + y) * plan.out[2] + x, channel, columns,
                    channels_last, out);
          }
          r += to_row_end;
        }
      }
    }
  }
  gemm_end();
}

// n code differences of one channel from padded column x on.
inline void put_differences(const WeightGradPlan& w, Vec zero_point, const uint8_t* codes, int64_t n, int64_t x, Bf16* row) {
  for (int64_t i = 0; i < n; i += Vec::size) {
    uint8_t bytes[Vec::size] = {};
    const int64_t left = std::min<int64_t>(Vec::size, n - i);
    std::memcpy(bytes, codes + i, static_cast<size_t>(left));
    Bf16 values[Vec::size];
    (Vec::load_u8(bytes) - zero_point).store(values);
    if (w.phases[2] == 1) {
      std::memcpy(row + x + i, values, static_cast<size_t>(2 * left));
    } else {
      for (int64_t j = 0; j < left; ++j) row[(x + i + j) % w.phases[2] * w.plane + (x + i + j) / w.phases[2]] = values[j];
    }
  }
}

void spread(const Plan& f, const WeightGradPlan& w, const Source& s, uint8_t* codes) {
  const int64_t channels = f.weight.in_channels(), width = f.in[2];
  const Vec zero_point(s.zero_point);
  std::memset(codes, 0, static_cast<size_t>(2 * w.codes_bytes(f)));
  for (int64_t z = 0; z < f.in[0]; ++z) {
    for (int64_t y = 0; y < f.in[1]; ++y) {
      const int64_t pixel = (z * f.in[1] + y) * width, padded = y + f.padding[1];
      Bf16* row = reinterpret_cast<Bf16*>(codes) + (z + f.padding[0]) * w.slice_bytes +
                  padded % w.phases[1] * w.phases[2] * w.plane + padded / w.phases[1] * w.pitch;
      if (!s.channels_last) {
        for (int64_t c = 0; c < channels; ++c) {
          put_differences(w, zero_point, s.codes + c * f.in_pixels() + pixel, width, f.padding[2], row + c * w.row_stride);
        }
        continue;
      }
      uint8_t square[256], staged[256];
      for (int64_t c = 0; c < channels; c += 16) {
        const int64_t here = std::min<int64_t>(16, channels - c);
        for (int64_t x = 0; x < width; x += 16) {
          const int64_t count = std::min<int64_t>(16, width - x);
          const uint8_t* from = s.codes + (pixel + x) * channels + c;
          for (int64_t i = 0; i < count; ++i) std::memcpy(staged + 16 * i, from + i * channels, static_cast<size_t>(here));
          numerics::transpose_bytes(staged, 16, square);
          for (int64_t j = 0; j < here; ++j) put_differences(w, zero_point, square + 16 * j, count, f.padding[2] + x, row + (c + j) * w.row_stride);
        }
      }
    }
  }
}

void panels(const Plan& forward, const Plan& g, const WeightGradPlan& w, const uint8_t* planes, int64_t begin, int64_t end, uint8_t* panels) {
  alignas(64) static constexpr uint16_t nothing[kPanel] = {};
  const int64_t width = g.in[2], held = g.weight.plane_in / 2;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t channel = w.panel_channel(panel), n = w.panel_columns(forward, panel);
    auto* to = reinterpret_cast<uint16_t*>(panels + 2 * panel * w.panel_bytes());
    for (size_t i = 0; i < w.segments.size(); ++i) {
      const Segment& s = w.segments[i];
      int64_t x = 0, row = 0;
      for (int64_t k = 0; k < w.length(static_cast<int64_t>(i)); k += 2, to += 2 * kPanel) {
        int64_t at[2];
        for (int64_t& place : at) {
          place = row < s.rows && x < width ? interior(g, s.slice, s.row + row, x) : -1;
          if (++x == w.pitch) x = 0, ++row;
        }
        for (int64_t c = channel; c < channel + n;) {
          const int64_t plane = c / held, within = c % held, here = std::min(held - within, channel + n - c);
          const uint8_t* from = planes + plane * g.plane_bytes + 2 * within;
          const auto* first = at[0] < 0 ? nothing : reinterpret_cast<const uint16_t*>(from + at[0]);
          const auto* second = at[1] < 0 ? nothing : reinterpret_cast<const uint16_t*>(from + at[1]);
          uint16_t* pairs = to + 2 * (c - channel);
          for (int64_t j = 0; j < here; ++j) {
            pairs[2 * j] = first[j];
            pairs[2 * j + 1] = second[j];
          }
          c += here;
        }
      }
    }
  }
}

void weight_grad(const Plan& f, const WeightGradPlan& w, const Bf16WeightTask& task, int64_t begin, int64_t end, uint8_t* scratch) {
  auto* sums = reinterpret_cast<float*>(scratch);
  const int64_t taps = f.weight.taps();
  gemm_begin();
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t tap = unit % taps, panel = unit / taps / w.channel_strips(), first = unit / taps % w.channel_strips() * kStrip;
    const int64_t kz = tap / (f.weight.kernel[1] * f.weight.kernel[2]), ky = tap / f.weight.kernel[2] % f.weight.kernel[1];
    const int64_t dy = ky * f.dilation[1], dx = tap % f.weight.kernel[2] * f.dilation[2];
    const int64_t shift = (dy % w.phases[1] * w.phases[2] + dx % w.phases[2]) * w.plane + dy / w.phases[1] * w.pitch + dx / w.phases[2];
    const int64_t rows = std::min(kStrip, w.block_in - first), columns = w.panel_columns(f, panel);
    float* target = task.sums + ((tap * w.panels() + panel) * w.block_in + first) * kPanel;
    for (size_t chunk = 0; chunk + 1 < w.chunks.size(); ++chunk) {
      const Run* runs = task.runs + kz * static_cast<int64_t>(w.segments.size()) + w.chunks[chunk];
      const int run_count = static_cast<int>(w.chunks[chunk + 1] - w.chunks[chunk]);
      int64_t block = w.in_panel > 1 ? panel * w.in_panel : panel / w.block_panels;
      for (int64_t column = 0; column < columns; column += w.block_out, ++block) {
        const int64_t channel = block * w.block_in + first, here = std::min(rows, f.weight.in_channels() - channel);
        if (here <= 0) break;
        gemm(task.codes + 2 * (channel * w.row_stride + shift), 2 * w.row_stride, here, runs, run_count,
             task.panels + 2 * panel * w.panel_bytes() + 4 * column, std::min(w.block_out, columns - column), sums + column);
      }
      for (int64_t i = 0; i < rows * kPanel; i += Vec::size) {
        numerics::scaled_sum(Vec::load(sums + i), Vec(task.scale), Vec::load(target + i)).store(target + i);
      }
    }
  }
  gemm_end();
}

constexpr Bf16Kernels bf16_kernels{&pad, &strips, &spread, &panels, &weight_grad};

}  // namespace
}  // namespace torchqat::cpu::conv
