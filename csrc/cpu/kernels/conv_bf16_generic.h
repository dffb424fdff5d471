// The bfloat16 gradients of one sample over Vec lanes, and the tiles of the ISA file that includes it (conv_tile_amx.h or
// conv_tile_avx512.h, before it).
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/conv_bf16.h"
#include "cpu/kernels/conv_grad_walk.h"
#include "cpu/vec/transpose.h"
#include "cpu/vec/vec.h"
#include "numerics/scaled_sum.h"

namespace torchqat::cpu::conv {
namespace {

using numerics::Vec;

// sums [rows rounded up to 16][64] start at zero.
inline void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const uint8_t* panel, int64_t columns,
                 float* sums) {
  gemm_tiles<BF16, float>(a, row_stride, rows, runs, run_count, panel, columns, sums, sums);
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
    uint8_t* to = planes + padded_at(p, z, y, 0);
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
  gemm_begin();
  for (int64_t strip = begin; strip < end; ++strip) {
    const Strip s = strip_at(plan, strip);
    for (int64_t plane = 0; plane < w.planes; ++plane) {
      const uint8_t* from = planes + plane * plan.plane_bytes;
      if (plan.walk == Walk::gather) {
        gather_pieces(plan, from, s, gathered,
                      [](uint8_t* to, const uint8_t* source, int64_t bytes) { std::memcpy(to, source, static_cast<size_t>(bytes)); });
        from = gathered;
      } else {
        from += first_tap(plan, s.slice, s.line, 0) + s.start * plan.row_stride;
      }
      for (int64_t panel = 0; panel < w.panels; ++panel) {
        const int64_t at = plane * w.panels + panel, channel = plane * w.plane_out + panel * kPanel;
        const int64_t columns = std::min({kPanel, w.plane_out - panel * kPanel, w.out_channels() - channel});
        gemm(from, plan.row_stride, s.rows, plan.runs.data(), static_cast<int>(plan.runs.size()),
             reinterpret_cast<const uint8_t*>(packed_codes(packed)) + at * w.panel_bytes(), columns, sums);
        for_each_pixel_run(plan, s, [&](int64_t row, int64_t count, int64_t pixel) {
          put_run(plan, sums, row, count, pixel, channel, columns, channels_last, out);
        });
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
  for (int64_t panel = begin; panel < end; ++panel) {
    auto* own = reinterpret_cast<uint16_t*>(panels + 2 * panel * w.panel_bytes());
    for_each_panel_group<2>(forward, g, w, panel, planes, nothing, [&](const uint16_t* const (&pixels)[2], int64_t n, int64_t k, int64_t column) {
      uint16_t* pairs = own + k * kPanel + 2 * column;
      for (int64_t j = 0; j < n; ++j) {
        pairs[2 * j] = pixels[0][j];
        pairs[2 * j + 1] = pixels[1][j];
      }
    });
  }
}

void weight_grad(const Plan& f, const WeightGradPlan& w, const Bf16WeightTask& task, int64_t begin, int64_t end, uint8_t* scratch) {
  auto* sums = reinterpret_cast<float*>(scratch);
  gemm_begin();
  for (int64_t unit = begin; unit < end; ++unit) {
    const WeightGradUnit u = weight_grad_unit(f, w, unit);
    const uint8_t* panel = task.panels + 2 * u.panel * w.panel_bytes();
    float* target = task.sums + u.sums;
    for_each_chunk(w, u, task.runs, [&](int64_t, const Run* runs, int run_count) {
      for_each_block(f, w, u, [&](int64_t column, int64_t columns, int64_t code, int64_t rows) {
        gemm(task.codes + 2 * code, 2 * w.row_stride, rows, runs, run_count, panel + 4 * column, columns, sums + column);
      });
      for (int64_t i = 0; i < u.rows * kPanel; i += Vec::size) {
        numerics::scaled_sum(Vec::load(sums + i), Vec(task.scale), Vec::load(target + i)).store(target + i);
      }
    });
  }
  gemm_end();
}

constexpr Bf16Kernels bf16_kernels{&pad, &strips, &spread, &panels, &weight_grad};

}  // namespace
}  // namespace torchqat::cpu::conv
