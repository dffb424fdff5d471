// Gradient kernels over Vec lanes and the gemm of the ISA file that includes it, after conv_int8_generic.h.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/column_sums.h"
#include "cpu/kernels/conv_grad_walk.h"
#include "cpu/kernels/conv_int8_generic.h"
#include "cpu/kernels/interleave_rows.h"
#include "numerics/limbs.h"

namespace torchqat::cpu::conv {
namespace {

// Calls visit(values, count, scales or null, scale) for every run of values: a pixel's channels, those of several pixels where few
// channels would leave vectors half empty, or a channel's pixels.
template <typename Visit>
inline void for_each_run(const GradSource& s, Visit visit) {
  constexpr int64_t few = 64;
  if (s.channels_last && s.channels < few && s.channels % 16 != 0) {
    float scales[16 * few];
    const int64_t length = 16 * s.channels, all = s.pixels * s.channels;
    for (int64_t i = 0; i < length; ++i) scales[i] = s.channel_scale[i % s.channels];
    for (int64_t at = 0; at < all; at += length) visit(at, std::min(length, all - at), scales, 1.0f);
    return;
  }
  const int64_t outer = s.channels_last ? s.pixels : s.channels, inner = s.channels_last ? s.channels : s.pixels;
  for (int64_t i = 0; i < outer; ++i) {
    visit(i * inner, inner, s.channels_last ? s.channel_scale : nullptr, s.channels_last ? 1.0f : s.channel_scale[i]);
  }
}

void channel_sums(const GradSource& s, int64_t begin, int64_t end, double* sums) {
  if (s.channels_last) {
    add_column_sums(s.values + begin, s.channels, s.pixels, end - begin, sums + begin);
    return;
  }
  for (int64_t c = begin; c < end; ++c) {
    // Sixteen sums on every path, so that the order is the same.
    const float* from = s.values + c * s.pixels;
    const int64_t whole = s.pixels / 16 * 16;
    double some[16] = {};
    add_column_sums(from, 16, s.pixels / 16, 16, some);
    for (int64_t i = whole; i < s.pixels; ++i) some[i - whole] += static_cast<double>(from[i]);
    for (double value : some) sums[c] += value;
  }
}

float grad_largest(const GradSource& s) {
  Vec most(0.0f);
  uint32_t nan = 0;
  for_each_run(s, [&](int64_t at, int64_t n, const float* scales, float scale) {
    for (int64_t i = 0; i < n; i += Vec::size) {
      const int left = static_cast<int>(std::min<int64_t>(Vec::size, n - i));
      const Vec value = Vec::load(s.values + at + i, left) * (scales != nullptr ? Vec::load(scales + i, left) : Vec(scale));
      nan |= numerics::mask_bits(numerics::is_nan(value)) & ((1u << left) - 1u);
      most = numerics::select(in_range(numerics::lane_abs(value), most, Vec(__builtin_inff())), numerics::lane_abs(value), most);
    }
  });
  float lanes[Vec::size];
  most.store(lanes);
  float largest = 0;
  for (float lane : lanes) largest = numerics::lane_max(lane, largest);
  return nan != 0 ? __builtin_nanf("") : largest;
}

void grad_split(const GradSource& s, float inverse, uint8_t* high, uint8_t* low) {
  for_each_run(s, [&](int64_t at, int64_t n, const float* scales, float scale) {
    for (int64_t i = 0; i < n; i += Vec::size) {
      const int left = static_cast<int>(std::min<int64_t>(Vec::size, n - i));
      const Vec value = Vec::load(s.values + at + i, left) * (scales != nullptr ? Vec::load(scales + i, left) : Vec(scale));
      const Vec whole = numerics::limb_value(value, Vec(inverse)), top = numerics::high_limb(whole);
      const Vec bottom = numerics::low_limb(whole, top), shift(128.0f);
      if (left == Vec::size) {
        (top + shift).store_u8(high + at + i);
        (bottom + shift).store_u8(low + at + i);
      } else {
        uint8_t last[2][Vec::size];
        (top + shift).store_u8(last[0]);
        (bottom + shift).store_u8(last[1]);
        std::memcpy(high + at + i, last[0], static_cast<size_t>(left));
        std::memcpy(low + at + i, last[1], static_cast<size_t>(left));
      }
    }
  });
}

// Bytes of padded columns x, x + 1, ... of one channel to their phases.
inline void put_columns(const WeightGradPlan& w, uint8_t* row, int64_t x, int64_t n, const uint8_t* bytes) {
  const int64_t phases = w.phases[2];
  if (phases == 1) {
    std::memcpy(row + x, bytes, static_cast<size_t>(n));
    return;
  }
  int64_t i = 0;
#if defined(__SSE2__)
  if (phases == 2) {
    uint8_t* first = row + x % 2 * w.plane + x / 2;
    uint8_t* second = row + (x + 1) % 2 * w.plane + (x + 1) / 2;
    const __m128i low = _mm_set1_epi16(0x00ff);
    for (; i + 16 <= n; i += 16) {
      const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
      const __m128i parted = _mm_packus_epi16(_mm_and_si128(both, low), _mm_srli_epi16(both, 8));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(first + i / 2), parted);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(second + i / 2), _mm_unpackhi_epi64(parted, parted));
    }
  }
#endif
  int64_t phase = (x + i) % phases, at = (x + i) / phases;
  for (; i < n; ++i) {
    row[phase * w.plane + at] = bytes[i];
    if (++phase == phases) phase = 0, ++at;
  }
}

void spread_codes(const Plan& f, const WeightGradPlan& w, const Source& s, int64_t begin, int64_t end, uint8_t* codes) {
  const int border = static_cast<int>(s.zero_point) + s.shift;
  const int64_t channels = f.weight.in_channels(), width = f.in[2], left = f.padding[2];
  const int64_t first = 16 * begin, last = std::min(16 * end, channels);
  for (int64_t z = 0; z < f.padded[0]; ++z) {
    std::memset(codes + z * w.slice_bytes + first * w.row_stride, border, static_cast<size_t>((last - first) * w.row_stride));
  }
  const int64_t used = f.padded[0] * w.slice_bytes;
  if (last == channels) std::memset(codes + used, border, static_cast<size_t>(w.codes_bytes(f) - used));
  for (int64_t z = 0; z < f.in[0]; ++z) {
    for (int64_t y = 0; y < f.in[1]; ++y) {
      const int64_t pixel = (z * f.in[1] + y) * width, padded = y + f.padding[1];
      // The phase row of channel 0 that this row of pixels belongs to.
      uint8_t* row = codes + (z + f.padding[0]) * w.slice_bytes + padded % w.phases[1] * w.phases[2] * w.plane + padded / w.phases[1] * w.pitch;
      if (!s.channels_last) {
        for (int64_t c = first; c < last; ++c) put_columns(w, row + c * w.row_stride, left, width, s.codes + c * f.in_pixels() + pixel);
        continue;
      }
      uint8_t square[256], staged[256];
      for (int64_t c = first; c < last; c += 16) {
        const int64_t here = std::min<int64_t>(16, last - c);
        for (int64_t x = 0; x < width; x += 16) {
          const int64_t count = std::min<int64_t>(16, width - x);
          const uint8_t* from = s.codes + (pixel + x) * channels + c;
          if (here == 16 && count == 16) {
            numerics::transpose_bytes(from, channels, square);
          } else {
            for (int64_t i = 0; i < count; ++i) std::memcpy(staged + 16 * i, from + i * channels, static_cast<size_t>(here));
            numerics::transpose_bytes(staged, 16, square);
          }
          uint8_t* to = row + c * w.row_stride;
          if (w.phases[2] == 1 && count == 16) {
            for (int64_t j = 0; j < here; ++j, to += w.row_stride) std::memcpy(to + left + x, square + 16 * j, 16);
          } else {
            for (int64_t j = 0; j < here; ++j, to += w.row_stride) put_columns(w, to, left + x, count, square + 16 * j);
          }
        }
      }
    }
  }
}

void panel_limbs(const Plan& forward, const Plan& g, const WeightGradPlan& w, const uint8_t* padded, int64_t begin, int64_t end, int8_t* panels,
                 int32_t* sums) {
  uint8_t ones[64];
  std::memset(ones, 1, sizeof ones);
  const int32_t zeros[kPanel] = {};
  alignas(64) int32_t ones_sums[16 * kPanel];
  gemm_begin();
  uint8_t nothing[kPanel];
  std::memset(nothing, 128, sizeof nothing);
  for (int64_t unit = begin; unit < end; ++unit) {
    int8_t* own = panels + unit * w.panel_bytes();
    for_each_panel_group<4>(forward, g, w, unit, padded, nothing, [&](const uint8_t* const (&pixels)[4], int64_t n, int64_t k, int64_t column) {
      // By sixteens where the panel has room: what is too much is overwritten, or belongs to no channel.
      const int64_t whole = (n + 15) / 16 * 16;
      // Stored limbs become signed.
      interleave_rows<0x80>(pixels, column + whole <= kPanel ? whole : n, own + k * kPanel + 4 * column);
    });
    // The sum of each column, from the same kernel on a row of ones.
    for (size_t chunk = 0; chunk + 1 < w.chunks.size(); ++chunk) {
      const int64_t first = w.chunks[chunk], end_k = chunk + 2 < w.chunks.size() ? w.segments[static_cast<size_t>(w.chunks[chunk + 1])].k : w.k_total;
      const int64_t step = w.segments[static_cast<size_t>(first)].k / 64;
      gemm(ones, 0, 1, w.steps.data() + step, static_cast<int>(end_k / 64 - step), own, w.panel_columns(forward, unit), zeros, ones_sums);
      std::memcpy(sums + (unit * w.chunk_count() + static_cast<int64_t>(chunk)) * kPanel, ones_sums, kPanel * sizeof(int32_t));
    }
  }
  gemm_end();
}

void weight_grad(const Plan& f, const WeightGradPlan& w, const WeightGradTask& task, int64_t begin, int64_t end, uint8_t* scratch) {
  auto* high = reinterpret_cast<int32_t*>(scratch);
  int32_t* low = high + (kStrip + 16) * kPanel;
  int32_t* init = low + (kStrip + 16) * kPanel;
  gemm_begin();
  for (int64_t unit = begin; unit < end; ++unit) {
    const WeightGradUnit u = weight_grad_unit(f, w, unit);
    for_each_chunk(w, u, w.runs.data(), [&](int64_t chunk, const Run* runs, int run_count) {
      for (int limb = 0; limb < 2; ++limb) {
        const int32_t* sums = task.limb_sums[limb] + (u.panel * w.chunk_count() + chunk) * kPanel;
        for (int64_t i = 0; i < kPanel; ++i) {
          init[i] = static_cast<int32_t>(0u - static_cast<uint32_t>(task.zero_point) * static_cast<uint32_t>(sums[i]));
        }
        const int8_t* limbs = task.limbs[limb] + u.panel * w.panel_bytes();
        int32_t* to = limb == 0 ? high : low;
        for_each_block(f, w, u, [&](int64_t column, int64_t columns, int64_t code, int64_t rows) {
          gemm(task.codes + code, w.row_stride, rows, runs, run_count, limbs + 4 * column, columns, init + column, to + column);
        });
      }
      float* target = task.sums + u.sums;
      for (int64_t i = 0; i < u.rows * kPanel; i += Vec::size) {
        const Vec whole = numerics::joined_limbs(Vec::load_s32(high + i), Vec::load_s32(low + i));
        const Vec before = task.first && chunk == 0 ? Vec(0.0f) : Vec::load(target + i);
        numerics::scaled_sum(whole, Vec(task.scale), before).store(target + i);
      }
    });
  }
  gemm_end();
}

void collect(const Plan& f, const WeightGradPlan& w, const float* sums, const float* scale, FilterOrder order, int64_t begin, int64_t end,
             float* grad_weight) {
  const int64_t taps = f.weight.taps(), group_in = f.weight.group_in, filter = group_in * taps, per_tap = w.panels() * w.block_in * kPanel;
  alignas(64) float staged[16 * kPanel], scales[kPanel];
  const FilterSteps steps(f.weight, order);
  const int64_t stretches = w.collect_stretches(f);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t panel = unit / stretches, first = w.panel_channel(panel), n = w.panel_columns(f, panel);
    const float* own = sums + panel * w.block_in * kPanel;
    if (w.merge > 1) {
      for (int64_t i = 0; i < n; ++i) {
        const float* rows = own + (first + i) / f.weight.group_out % w.merge * group_in * kPanel + i;
        float* to = grad_weight + (first + i) * filter;
        for (int64_t c = 0; c < group_in; ++c) {
          for (int64_t tap = 0; tap < taps; ++tap) to[c * steps.channel + tap * steps.tap] = rows[tap * per_tap + c * kPanel] / scale[first + i];
        }
      }
      continue;
    }
    for (int64_t i = 0; i < kPanel; ++i) scales[i] = i < n ? scale[first + i] : 1.0f;
    const bool last = order == FilterOrder::channels_last;
    const int64_t from_k = unit % stretches * kCollected, end_k = std::min(filter, from_k + kCollected);
    int64_t tap = last ? from_k / group_in : from_k % taps, c = last ? from_k % group_in : from_k / taps;
    for (int64_t k = from_k; k < end_k; k += 16) {
      const int64_t rows = std::min<int64_t>(16, end_k - k);
      for (int64_t r = 0; r < rows; ++r) {
        const float* from = own + tap * per_tap + c * kPanel;
        for (int64_t i = 0; i < kPanel; i += Vec::size) (Vec::load(from + i) / Vec::load(scales + i)).store(staged + r * kPanel + i);
        if (last) {
          if (++c == group_in) c = 0, ++tap;
        } else if (++tap == taps) {
          tap = 0, ++c;
        }
      }
      numerics::transpose_store(staged, kPanel, rows, n, grad_weight + first * filter + k, filter);
    }
  }
}

constexpr GradKernels grad_kernels{&channel_sums, &grad_largest, &grad_split, &spread_codes, &panel_limbs, &collect, &weight_grad};

}  // namespace
}  // namespace torchqat::cpu::conv
