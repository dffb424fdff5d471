// The loop over tiles and the float epilogue, compiled once per instruction set. Tile multiplies up to 2 * Tile::half rows
// by one panel:
//   multiply<op>(a0, rows0, a1, rows1, lda, panel, steps, acc): acc[row][64] is overwritten; rows of a1 go to
//   acc[half + row]; steps counts the panel's 256-byte rows and is a multiple of 16.
#pragma once
#include <cstring>
#include <limits>

#include "cpu/kernels/gemm_u8s8.h"
#include "cpu/kernels/panels.h"
#include "cpu/vec/vec.h"
#include "numerics/quotient.h"
#include "numerics/requantize.h"

namespace torchqat::cpu {
namespace {

using numerics::Vec;

// What the epilogue needs of one panel's columns: where they lie, or copies padded to whole vectors.
struct PanelColumns {
  const float *scale, *bias;
  int64_t first, count;
  bool has_bias;

  PanelColumns(const GemmU8S8& g, int64_t panel)
      : first(panel * kPanelColumns), count(std::min(kPanelColumns, g.n - first)), has_bias(g.bias != nullptr) {
    if (count == kPanelColumns && g.b_stride == 1) {
      scale = g.b_scale + first;
      bias = has_bias ? g.bias + first : nullptr;
      return;
    }
    for (int64_t j = 0; j < kPanelColumns; ++j) {
      padded_scale_[j] = j < count ? g.b_scale[(first + j) * g.b_stride] : 0.0f;
      padded_bias_[j] = has_bias && j < count ? g.bias[first + j] : 0.0f;
    }
    scale = padded_scale_;
    bias = padded_bias_;
  }
  PanelColumns(const PanelColumns&) = delete;
  PanelColumns& operator=(const PanelColumns&) = delete;

 private:
  alignas(64) float padded_scale_[kPanelColumns];
  alignas(64) float padded_bias_[kPanelColumns];
};

TORCHQAT_INLINE void finish_float(const GemmU8S8& g, int64_t row, const PanelColumns& columns, const float* y) {
  float* out = static_cast<float*>(g.out) + row * g.ldo + columns.first;
  std::memcpy(out, y, static_cast<size_t>(columns.count) * sizeof(float));
}

TORCHQAT_INLINE void finish_codes(const GemmU8S8& g, int64_t row, const PanelColumns& columns, const float* y) {
  alignas(64) uint8_t codes[kPanelColumns];
  for (int64_t j = 0; j < kPanelColumns; j += Vec::size) {
    numerics::integer_layer_code(Vec::load(y + j), g.relu, Vec(g.out_scale), Vec(g.out_zero_point), Vec(g.out_min),
                                 Vec(g.out_max))
        .store_u8(codes + j);
  }
  std::memcpy(static_cast<uint8_t*>(g.out) + row * g.ldo + columns.first, codes, static_cast<size_t>(columns.count));
}

// One row of one panel; load(j) gives the exact sums of columns j... as floats.
template <typename Load>
TORCHQAT_INLINE void finish_row(const GemmU8S8& g, int64_t row, const PanelColumns& columns, Load load) {
  const Vec a_scale(g.a_scale[row * g.a_stride]);
  const bool direct = g.output == GemmOutput::float32 && columns.count == kPanelColumns;
  const bool past_cache = direct && g.m * g.ldo >= kStreamedSize &&
                          reinterpret_cast<uintptr_t>(static_cast<float*>(g.out) + row * g.ldo + columns.first) % 64 == 0;
  alignas(64) float buffer[kPanelColumns];
  float* y = direct ? static_cast<float*>(g.out) + row * g.ldo + columns.first : buffer;
  if (g.nan_rows != nullptr && g.nan_rows[row] != 0) {
    for (int64_t j = 0; j < kPanelColumns; ++j) y[j] = std::numeric_limits<float>::quiet_NaN();
  } else {
    for (int64_t j = 0; j < kPanelColumns; j += Vec::size) {
      const Vec value = numerics::integer_layer_value(load(j), a_scale, Vec::load(columns.scale + j));
      const Vec result = columns.has_bias ? value + Vec::load(columns.bias + j) : value;
      if (past_cache) {
        result.stream(y + j);
      } else {
        result.store(y + j);
      }
    }
  }
  if (g.output == GemmOutput::codes) {
    finish_codes(g, row, columns, y);
  } else if (!direct) {
    finish_float(g, row, columns, y);
  }
}

// The rows of one whole panel of one segment. What a panel's columns need of all rows alike is made once, as the rows share a
// scale; the bits are finish_row's.
class PanelFinish {
 public:
  PanelFinish(const GemmU8S8& g, const PanelColumns& columns, const int32_t* sums)
      : g_(g), columns_(columns), sums_(sums),
        common_(columns.count == kPanelColumns && g.k_padded <= kSegment && g.a_stride == 0) {
    if (g.output == GemmOutput::codes) reciprocal_ = numerics::quotient_reciprocal(g.out_scale);
    if (!common_) return;
    const Vec a_scale(*g.a_scale);
    for (int64_t j = 0; j < kPanelColumns; j += Vec::size) (a_scale * Vec::load(columns.scale + j)).store(factor_ + j);
    for (int64_t j = 0; j < kPanelColumns; ++j) {
      offset_[j] = static_cast<int32_t>(static_cast<uint32_t>(sums[j]) * static_cast<uint32_t>(*g.a_zero_point));
    }
  }
  PanelFinish(const PanelFinish&) = delete;
  PanelFinish& operator=(const PanelFinish&) = delete;

  // Rows [row, row + count), whose sums are acc[count][64].
  TORCHQAT_INLINE void rows(int64_t row, int64_t count, const int32_t* acc) const {
    for (int64_t r = 0; r < count; ++r, acc += kPanelColumns) {
      if (!common_ || (g_.nan_rows != nullptr && g_.nan_rows[row + r] != 0)) {
        const int32_t zero_point = g_.a_zero_point[(row + r) * g_.a_stride];
        finish_row(g_, row + r, columns_, [&](int64_t j) { return Vec::load_s32_minus(acc + j, sums_ + j, zero_point); });
      } else if (g_.output == GemmOutput::codes) {
        codes(row + r, acc);
      } else {
        floats(row + r, acc);
      }
    }
  }

 private:
  TORCHQAT_INLINE Vec value(const int32_t* acc, int64_t j) const {
    const Vec y = Vec::load_s32_minus(acc + j, offset_ + j, 1) * Vec::load(factor_ + j);
    return columns_.has_bias ? y + Vec::load(columns_.bias + j) : y;
  }

  TORCHQAT_INLINE void floats(int64_t row, const int32_t* acc) const {
    float* out = static_cast<float*>(g_.out) + row * g_.ldo + columns_.first;
    if (g_.m * g_.ldo >= kStreamedSize && reinterpret_cast<uintptr_t>(out) % 64 == 0) {
#pragma GCC unroll 4
      for (int64_t j = 0; j < kPanelColumns; j += Vec::size) value(acc, j).stream(out + j);
    } else {
#pragma GCC unroll 4
      for (int64_t j = 0; j < kPanelColumns; j += Vec::size) value(acc, j).store(out + j);
    }
  }

  TORCHQAT_INLINE void codes(int64_t row, const int32_t* acc) const {
    uint8_t* out = static_cast<uint8_t*>(g_.out) + row * g_.ldo + columns_.first;
    const Vec zero_point(g_.out_zero_point), zero(0.0f);
#pragma GCC unroll 4
    for (int64_t j = 0; j < kPanelColumns; j += Vec::size) {
      const Vec y = value(acc, j), input = g_.relu ? lane_max(zero, y) : y;
      const Vec level = numerics::rounded_quotient(input, Vec(g_.out_scale), Vec(reciprocal_)) + zero_point;
      numerics::storable_code(numerics::clamp_level(level, Vec(g_.out_min), Vec(g_.out_max)), zero_point).store_u8(out + j);
    }
  }

  const GemmU8S8& g_;
  const PanelColumns& columns_;
  const int32_t* sums_;
  bool common_;
  float reciprocal_ = 0.0f;
  alignas(64) float factor_[kPanelColumns];   // of a sum, without the bias
  alignas(64) int32_t offset_[kPanelColumns];  // of a sum: the zero point's part
};

template <typename Tile, typename Op>
void run_gemm_u8s8(const GemmU8S8& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  constexpr int64_t half = Tile::half, rows_max = 2 * half, columns = kPanelColumns;
  alignas(64) int32_t acc[rows_max * columns];
  alignas(64) float total[rows_max * columns];
  const int64_t n_padded = padded64(g.n), segments = segment_count(g.k_padded);
  Tile tile;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const PanelColumns panel_columns(g, p);
    const PanelFinish finish(g, panel_columns, g.column_sums + p * columns);
    const auto* panel = reinterpret_cast<const uint8_t*>(g.panels) + p * g.k_padded * columns;
    if constexpr (requires { tile.expect(panel, p, p); }) {
      if (p + 1 < panel_end) tile.expect(panel + g.k_padded * columns, g.k_padded * columns, (row_end - row_begin) / rows_max);
    }
    for (int64_t i = row_begin; i < row_end; i += rows_max) {
      const int64_t rows = std::min(rows_max, row_end - i), rows0 = std::min(half, rows);
      const uint8_t* a = g.a + i * g.lda;
      for (int64_t s = 0; s < segments; ++s) {
        const int64_t k = s * kSegment, steps = (std::min(g.k_padded, k + kSegment) - k) / 4;
        tile.template multiply<Op>(a + k, rows0, a + half * g.lda + k, rows - rows0, g.lda, panel + k * columns, steps, acc);
        if (segments == 1) {
          finish.rows(i, rows, acc);
          continue;
        }
        const int32_t* sums = g.column_sums + s * n_padded + p * columns;
        for (int64_t r = 0; r < rows; ++r) {
          const int32_t zero_point = g.a_zero_point[(i + r) * g.a_stride];
          const int32_t* row_acc = acc + r * columns;
          const auto exact = [&](int64_t j) { return Vec::load_s32_minus(row_acc + j, sums + j, zero_point); };
          float* row_total = total + r * columns;
          for (int64_t j = 0; j < columns; j += Vec::size) {
            (s == 0 ? exact(j) : Vec::load(row_total + j) + exact(j)).store(row_total + j);
          }
          if (s == segments - 1) {
            finish_row(g, i + r, panel_columns, [&](int64_t j) { return Vec::load(row_total + j); });
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
