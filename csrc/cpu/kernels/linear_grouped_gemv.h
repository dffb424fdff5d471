// One row of u8 codes times packed weights: bound by reading the weights, so they are unpacked in registers and read
// once, in order, with prefetching. With x and z shifted by -128 to signed bytes and u = q_w + offset unsigned:
//   sum (x - z) * q_w = sum x * u - z * sum u - offset * sum (x - z)
// The last term belongs to the row and is where the sum begins; sum u is taken from added bytes.
#pragma once
#include "cpu/kernels/grouped_scales_generic.h"
#include "cpu/kernels/linear_grouped.h"

namespace torchqat::cpu {
namespace {

// What a row needs, prepared once for all panels.
struct GemvRow {
  const uint8_t* codes;   // signed form [k_padded]
  const int32_t* begin;   // [groups]
  int32_t zero_point;     // signed form
};

inline GemvRow prepare_gemv_row(const GroupedInt8& g, int64_t row, uint8_t* scratch) {
  const GroupedLayout& w = g.w;
  const int64_t k = w.k_padded();
  const int32_t z = g.zero_point[row * g.input_stride] - 128;
  uint8_t* codes = scratch;
  auto* begin = reinterpret_cast<int32_t*>(scratch + round_up64(k));
  const uint8_t* source = g.codes + row * g.lda;
  for (int64_t i = 0; i < k; ++i) codes[i] = source[i] ^ 0x80;
  for (int64_t group = 0; group < w.groups; ++group) {
    const auto* x = reinterpret_cast<const int8_t*>(codes) + group * w.group_padded;
    int32_t sum = 0;
    for (int64_t i = 0; i < w.group_padded; ++i) sum += x[i];
    begin[group] = -w.offset * (sum - z * static_cast<int32_t>(w.group_padded));
  }
  return {codes, begin, z};
}

template <int slot, bool has_zero>
inline void gemv_panel(const GroupedLayout& w, const GemvRow& row, const uint8_t* panel, const GroupedScale& scale,
                       int64_t scale_base, float* total) {
  using numerics::Vec;
  constexpr int vectors = Lanes::gemv_vectors, quads = 8 / slot, step = 4 * Lanes::columns;
  constexpr bool narrow = slot < 8;
  // Added bytes stay below 256 for this many lines.
  constexpr int64_t lines_summed = slot == 8 ? 1 : 255 / (quads * ((1 << slot) - 1));
  // Far enough that memory has answered when the line's turn comes.
  constexpr int64_t ahead = 8192, groups_ahead = 16;
  const int64_t lines = w.group_bytes / kGroupedLine;
  const auto z = Lanes::broadcast_bytes(static_cast<uint8_t>(row.zero_point));
  for (int64_t c0 = 0; c0 < kGroupedColumns; c0 += vectors * Lanes::columns) {
    Vec t[vectors];
#pragma GCC unroll 4
    for (int c = 0; c < vectors; ++c) t[c] = Vec(0.0f);
    const uint8_t* line = panel + 4 * c0;
    const uint8_t* x = row.codes;
    for (int64_t group = 0; group < w.groups; ++group) {
      typename Lanes::Int acc[vectors], below[vectors];
#pragma GCC unroll 4
      for (int c = 0; c < vectors; ++c) {
        acc[c] = Lanes::broadcast(row.begin[group]);
        below[c] = Lanes::zero();
      }
      for (int64_t l = 0; l < lines;) {
        typename Lanes::Bytes added[vectors];
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) added[c] = Lanes::broadcast_bytes(0);
        const int64_t stop = has_zero ? std::min(lines, l + lines_summed) : lines;
        for (; l < stop; ++l, line += kGroupedLine, x += 4 * quads) {
#pragma GCC unroll 4
          for (int c = 0; c < vectors; ++c) {
            Lanes::prefetch_far(line + c * step + ahead);
            const auto bytes = Lanes::load_bytes(line + c * step);
#pragma GCC unroll 4
            for (int j = 0; j < quads; ++j) {
              const auto u = Lanes::template field<slot>(bytes, j);
              int32_t word;
              std::memcpy(&word, x + 4 * j, 4);
              Lanes::template dot<narrow>(acc[c], u, Lanes::broadcast(word));
              if constexpr (has_zero) added[c] = Lanes::add_bytes(added[c], u);
            }
          }
        }
        if constexpr (has_zero) {
#pragma GCC unroll 4
          for (int c = 0; c < vectors; ++c) Lanes::template dot<false>(below[c], added[c], z);
        }
      }
      const int64_t at = scale_base + group * scale.group_stride + c0;
      prefetch_scales<vectors * Lanes::columns>(scale, at + groups_ahead * scale.group_stride);
#pragma GCC unroll 4
      for (int c = 0; c < vectors; ++c) {
        if constexpr (has_zero) acc[c] = Lanes::subtract(acc[c], below[c]);
        t[c] = numerics::add_group(t[c], Lanes::to_float(acc[c]), load_scale(scale, at + c * Lanes::columns));
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < vectors; ++c) t[c].store(total + c0 + c * Lanes::columns);
  }
}

template <int slot>
inline void gemv_rows(const GroupedInt8& g, const GroupedRange& range) {
  const GroupedLayout& w = g.w;
  alignas(64) float total[kGroupedColumns];
  auto* gathered = reinterpret_cast<float*>(range.scratch + round_up64(w.k_padded()) + round_up64(w.groups * 4));
  for (int64_t i = range.row_begin; i < range.row_end; ++i) {
    const GemvRow row = prepare_gemv_row(g, i, range.scratch);
    for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
      GroupedScale scale = g.scale;
      int64_t base = p * scale.panel_stride;
      if (!is_direct(w, scale, p)) {
        gather_scales(w, g.scale, p, 0, w.groups, gathered);
        scale = GroupedScale{gathered, ScaleType::float32, 0, kGroupedColumns, 1};
        base = 0;
      }
      const auto panel = row.zero_point != 0 ? &gemv_panel<slot, true> : &gemv_panel<slot, false>;
      panel(w, row, g.weight + p * w.panel_bytes, scale, base, total);
      store_row(total, g.bias != nullptr ? g.bias + p * kGroupedColumns : nullptr, true,
                g.input_scale[i * g.input_stride], std::min(kGroupedColumns, w.n - p * kGroupedColumns),
                g.out + i * g.ldo + p * kGroupedColumns);
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
