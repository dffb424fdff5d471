// Float rows times packed weights. Few rows: codes become floats in registers, once for a tile of rows. Many rows: a block of
// codes becomes floats in the first-level cache, once for all of them.
#pragma once
#include "cpu/kernels/grouped_scales_generic.h"
#include "cpu/kernels/linear_grouped.h"

namespace torchqat::cpu {
namespace {

struct FloatPanel {
  const uint8_t* packed;
  const float* zero_point;  // [groups][64] or absent
  GroupedScale scale;
  int64_t scale_base;
};

// rows x 64 columns -> out [rows][64]; input_sums [rows][groups], for zero points.
template <int slot, int rows>
__attribute__((noinline)) void float_tile(const GroupedLayout& w, const float* x, int64_t lda, const FloatPanel& panel,
                       const float* input_sums, float* out) {
  using numerics::Vec;
  constexpr int vectors = Lanes::gemv_vectors, quads = 8 / slot, step = 4 * Lanes::columns;
  constexpr int64_t ahead = 6144;
  const int64_t lines = w.group_bytes / kGroupedLine;
  const typename Lanes::template Decoder<slot> decode(w.offset);
  for (int64_t c0 = 0; c0 < kGroupedColumns; c0 += vectors * Lanes::columns) {
    alignas(64) float totals[rows][vectors * Lanes::columns] = {};
    const uint8_t* line = panel.packed + 4 * c0;
    const float* input = x;
    for (int64_t group = 0; group < w.groups; ++group) {
      Vec acc[rows][vectors];
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) acc[r][c] = Vec(0.0f);
      }
      for (int64_t l = 0; l < lines; ++l, line += kGroupedLine, input += 4 * quads) {
        typename Lanes::Bytes bytes[vectors];
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) {
          if constexpr (rows <= 2) Lanes::prefetch(line + c * step + ahead);
          bytes[c] = Lanes::load_bytes(line + c * step);
        }
#pragma GCC unroll 16
        for (int k = 0; k < 4 * quads; ++k) {
          const int shift = 8 * (k % 4) + slot * (k / 4);
#pragma GCC unroll 4
          for (int c = 0; c < vectors; ++c) {
            const Vec q = decode(bytes[c], shift);
#pragma GCC unroll 6
            for (int r = 0; r < rows; ++r) acc[r][c] = lane_fma(Vec(input[r * lda + k]), q, acc[r][c]);
          }
        }
      }
      keep_in_memory();
      const int64_t at = panel.scale_base + group * panel.scale.group_stride + c0;
#pragma GCC unroll 4
      for (int c = 0; c < vectors; ++c) {
        const Vec scale = load_scale(panel.scale, at + c * Lanes::columns);
#pragma GCC unroll 6
        for (int r = 0; r < rows; ++r) {
          float* t = totals[r] + c * Lanes::columns;
          Vec sum = acc[r][c];
          if (panel.zero_point != nullptr) {
            const Vec z = Vec::load(panel.zero_point + group * kGroupedColumns + c0 + c * Lanes::columns);
            sum = numerics::without_zero_point(sum, z, Vec(input_sums[r * w.groups + group]));
          }
          numerics::add_group(Vec::load(t), sum, scale).store(t);
        }
      }
    }
    for (int r = 0; r < rows; ++r) {
      std::memcpy(out + r * kGroupedColumns + c0, totals[r], sizeof(totals[r]));
    }
  }
}

// Successive k of one group, within a block.
struct FloatSegment {
  int64_t group, k;      // where it begins, k counted with padding
  int64_t count;
  bool first, last;      // of its group
};

template <int slot>
inline void decode_block(const GroupedLayout& w, const uint8_t* panel, int64_t k, int64_t count, float* out) {
  constexpr int quads = 8 / slot, step = 4 * Lanes::columns;
  const typename Lanes::template Decoder<slot> decode(w.offset);
  const uint8_t* line = panel + k / (4 * quads) * kGroupedLine;
  for (int64_t end = k + count; k < end; k += 4 * quads, line += kGroupedLine, out += 4 * quads * kGroupedColumns) {
    for (int64_t c = 0; c < kGroupedColumns; c += Lanes::columns) {
      const auto bytes = Lanes::load_bytes(line + c / Lanes::columns * step);
#pragma GCC unroll 16
      for (int j = 0; j < 4 * quads; ++j) decode(bytes, 8 * (j % 4) + slot * (j / 4)).store(out + j * kGroupedColumns + c);
    }
  }
}

// rows x 64 columns over the segments of a block; b [k][64]; acc and total [rows][64].
template <int rows>
__attribute__((noinline)) void float_block(const GroupedLayout& w, const float* x, int64_t lda, const FloatSegment* segments,
                                           int64_t count, const float* b, const float* scale, const float* zero_point,
                                           const float* input_sums, float* sums, float* totals) {
  using numerics::Vec;
  constexpr int vectors = Lanes::gemv_vectors;
  for (int64_t c0 = 0; c0 < kGroupedColumns; c0 += vectors * Lanes::columns) {
    const float* column = b + c0;
    for (const FloatSegment* s = segments; s != segments + count; ++s) {
      Vec acc[rows][vectors];
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) {
          acc[r][c] = s->first ? Vec(0.0f) : Vec::load(sums + r * kGroupedColumns + c0 + c * Lanes::columns);
        }
      }
      const float* input = x + s->k;
      for (int64_t k = 0; k < s->count; ++k, column += kGroupedColumns, ++input) {
        Vec q[vectors];
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) q[c] = Vec::load(column + c * Lanes::columns);
#pragma GCC unroll 6
        for (int r = 0; r < rows; ++r) {
          const Vec value(input[r * lda]);
#pragma GCC unroll 4
          for (int c = 0; c < vectors; ++c) acc[r][c] = lane_fma(value, q[c], acc[r][c]);
        }
      }
      keep_in_memory();
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) {
          const int64_t at = c0 + c * Lanes::columns;
          if (!s->last) {
            acc[r][c].store(sums + r * kGroupedColumns + at);
            continue;
          }
          Vec sum = acc[r][c];
          if (zero_point != nullptr) {
            const Vec z = Vec::load(zero_point + s->group * kGroupedColumns + at);
            sum = numerics::without_zero_point(sum, z, Vec(input_sums[r * w.groups + s->group]));
          }
          float* t = totals + r * kGroupedColumns + at;
          numerics::add_group(Vec::load(t), sum, Vec::load(scale + s->group * kGroupedColumns + at)).store(t);
        }
      }
    }
  }
}

// What the block that begins at k holds: at most `most` k, and no piece of a group that would fit into one.
struct FloatBlock {
  int64_t k, segments;
};

template <int slot>
inline FloatBlock next_segments(const GroupedLayout& w, int64_t begin, int64_t most, FloatSegment* segments) {
  const int64_t end = w.k_padded(), line_k = 32 / slot;
  int64_t count = 0, k = begin;
  while (k < end && k - begin < most) {
    const int64_t group = k / w.group_padded, from = k - group * w.group_padded;
    const int64_t left = w.group_padded - from, room = (most - (k - begin)) / line_k * line_k;
    if (left > room && k != begin && w.group_padded <= most) break;
    const int64_t some = std::min(left, room);
    if (some == 0) break;
    segments[count++] = FloatSegment{group, k, some, from == 0, some == left};
    k += some;
  }
  return {k - begin, count};
}

// All rows over one panel; scale [groups][64] as floats.
template <int slot>
inline void float_panel(const GroupedLayout& w, const float* x, int64_t lda, int64_t rows, const uint8_t* panel,
                        const float* scale, const float* zero_point, const float* input_sums, float* block, float* sums,
                        float* totals) {
  constexpr int most = Lanes::float_rows;
  std::memset(totals, 0, static_cast<size_t>(rows * kGroupedColumns) * sizeof(float));
  for (int64_t k = 0; k < w.k_padded();) {
    FloatSegment segments[kFloatBlock];
    const FloatBlock found = next_segments<slot>(w, k, kFloatBlock, segments);
    const int64_t count = found.segments;
    decode_block<slot>(w, panel, k, found.k, block);
    k += found.k;
    for (int64_t r = 0; r < rows; r += most) {
      const float* row = x + r * lda;
      float *s = sums + r * kGroupedColumns, *t = totals + r * kGroupedColumns;
      const float* row_sums = input_sums + r * w.groups;
      switch (std::min<int64_t>(most, rows - r)) {
        case 1: float_block<1>(w, row, lda, segments, count, block, scale, zero_point, row_sums, s, t); break;
        case 2: float_block<std::min(2, most)>(w, row, lda, segments, count, block, scale, zero_point, row_sums, s, t); break;
        case 3: float_block<std::min(3, most)>(w, row, lda, segments, count, block, scale, zero_point, row_sums, s, t); break;
        case 4: float_block<std::min(4, most)>(w, row, lda, segments, count, block, scale, zero_point, row_sums, s, t); break;
        case 5: float_block<std::min(5, most)>(w, row, lda, segments, count, block, scale, zero_point, row_sums, s, t); break;
        default: float_block<most>(w, row, lda, segments, count, block, scale, zero_point, row_sums, s, t); break;
      }
    }
  }
}

inline void sum_inputs(const GroupedFloat& g, int64_t row, int64_t rows, float* sums) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t group = 0; group < g.w.groups; ++group) {
      const float* x = g.input + (row + r) * g.lda + group * g.w.group_padded;
      float sum = 0.0f;
      for (int64_t k = 0; k < g.w.group_padded; ++k) sum += x[k];
      sums[r * g.w.groups + group] = sum;
    }
  }
}

template <int slot>
inline void float_rows(const GroupedFloat& g, const GroupedRange& range) {
  constexpr int most = Lanes::float_rows;
  const GroupedLayout& w = g.w;
  auto* scale = reinterpret_cast<float*>(range.scratch);
  float* zero_point = scale + w.groups * kGroupedColumns;
  float* sums = zero_point + w.groups * kGroupedColumns;
  float* block = sums + (w.groups * kGroupedRowsAtOnce + 15) / 16 * 16;
  float* row_sums = block + kFloatBlock * kGroupedColumns;
  float* totals = row_sums + kGroupedRowsAtOnce * kGroupedColumns;
  for (int64_t begin = range.row_begin; begin < range.row_end; begin += kGroupedRowsAtOnce) {
    const int64_t end = std::min(range.row_end, begin + kGroupedRowsAtOnce);
    if (g.zero_point.data != nullptr) sum_inputs(g, begin, end - begin, sums);
    for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
      FloatPanel panel{g.weight + p * w.panel_bytes, nullptr, g.scale, p * g.scale.panel_stride};
      if (!is_direct(w, g.scale, p)) {
        gather_scales(w, g.scale, p, 0, w.groups, scale);
        panel.scale = GroupedScale{scale, ScaleType::float32, 0, kGroupedColumns, 1};
        panel.scale_base = 0;
      }
      if (g.zero_point.data != nullptr) {
        gather_scales(w, g.zero_point, p, 0, w.groups, zero_point);
        panel.zero_point = zero_point;
      }
      const int64_t first = p * kGroupedColumns, count = std::min(kGroupedColumns, w.n - first);
      // So many rows share decoded weights.
      if (end - begin > Lanes::float_rows_decoded) {
        if (panel.scale_base != 0 || panel.scale.data != scale) gather_scales(w, g.scale, p, 0, w.groups, scale);
        float_panel<slot>(w, g.input + begin * g.lda, g.lda, end - begin, panel.packed, scale, panel.zero_point, sums, block,
                          row_sums, totals);
        for (int64_t i = begin; i < end; ++i) {
          store_row(totals + (i - begin) * kGroupedColumns, g.bias != nullptr ? g.bias + first : nullptr, false, 1.0f, count,
                    g.out + i * g.ldo + first);
        }
        continue;
      }
      for (int64_t i = begin; i < end; i += most) {
        alignas(64) float total[most * kGroupedColumns];
        const float* x = g.input + i * g.lda;
        const float* sum = sums + (i - begin) * w.groups;
        const int64_t rows = std::min<int64_t>(most, end - i);
        switch (rows) {
          case 1: float_tile<slot, 1>(w, x, g.lda, panel, sum, total); break;
          case 2: float_tile<slot, std::min(2, most)>(w, x, g.lda, panel, sum, total); break;
          case 3: float_tile<slot, std::min(3, most)>(w, x, g.lda, panel, sum, total); break;
          case 4: float_tile<slot, std::min(4, most)>(w, x, g.lda, panel, sum, total); break;
          case 5: float_tile<slot, std::min(5, most)>(w, x, g.lda, panel, sum, total); break;
          default: float_tile<slot, most>(w, x, g.lda, panel, sum, total); break;
        }
        for (int64_t r = 0; r < rows; ++r) {
          store_row(total + r * kGroupedColumns, g.bias != nullptr ? g.bias + first : nullptr, false, 1.0f, count,
                    g.out + (i + r) * g.ldo + first);
        }
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
