// Loops and epilogue of the backward products, compiled once per instruction set. Tile: see gemm_u8s8_generic.h.
#pragma once
#include <cstring>

#include "cpu/kernels/gemm_grad.h"
#include "cpu/kernels/gemm_ops.h"
#include "cpu/kernels/panels.h"
#include "cpu/vec/vec.h"
#include "numerics/limbs.h"

namespace torchqat::cpu {
namespace {

using numerics::Vec;

template <typename T, typename Load>
TORCHQAT_INLINE void finish_gradient(const GemmGrad& g, int64_t row, int64_t column, Load load) {
  const int64_t count = std::min(kPanelColumns, g.n - column);
  const Vec factor((g.row_scale != nullptr ? g.row_scale[row] : 1.0f) * g.factor);
  T* out = static_cast<T*>(g.out) + row * g.ldo + column;
  alignas(64) T buffer[kPanelColumns];
  T* y = count == kPanelColumns ? out : buffer;
  const bool past_cache = g.m * g.ldo >= kStreamedSize && reinterpret_cast<uintptr_t>(y) % 64 == 0 && y == out;
  uint64_t inside = ~uint64_t{0};
  if (g.mask != nullptr) {
    const uint8_t* bits = g.mask + row * g.ld_mask + column / 8;
    if (count == kPanelColumns) {
      std::memcpy(&inside, bits, 8);  // a constant size is one load, not a call
    } else {
      std::memcpy(&inside, bits, static_cast<size_t>((count + 7) / 8));
    }
  }
  for (int64_t j = 0; j < kPanelColumns; j += Vec::size) {
    const Vec value = load(j) * factor;
    const Vec kept = select(Vec::from_bits(static_cast<uint32_t>(inside >> j)), value, Vec(0.0f));
    if (past_cache) {
      kept.stream(y + j);
    } else {
      kept.store(y + j);
    }
  }
  if (y == buffer) std::memcpy(out, buffer, static_cast<size_t>(count) * sizeof(T));
}

template <typename T, typename Tile>
void run_gemm_limbs_of(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  constexpr int64_t half = Tile::half, columns = kPanelColumns;
  alignas(64) int32_t acc[2 * half * columns];
  alignas(64) float total[half * columns];
  const int64_t segments = segment_count(g.reduction_bytes);
  Tile tile;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const uint8_t* panel = g.panels + (p - g.first_panel) * g.reduction_bytes * columns;
    for (int64_t i = row_begin; i < row_end; i += half) {
      const int64_t rows = std::min(half, row_end - i);
      for (int64_t s = 0; s < segments; ++s) {
        const int64_t r0 = s * kSegment, steps = (std::min(g.reduction_bytes, r0 + kSegment) - r0) / 4;
        tile.template multiply<S8U8>(g.a_high + i * g.lda + r0, rows, g.a_low + i * g.lda + r0, rows, g.lda,
                                     panel + r0 * columns, steps, acc);
        for (int64_t r = 0; r < rows; ++r) {
          const int32_t *high = acc + r * columns, *low = acc + (half + r) * columns;
          const int32_t high_correction = g.corrections[2 * s * g.m + i + r];
          const int32_t low_correction = g.corrections[(2 * s + 1) * g.m + i + r];
          const auto joined = [&](int64_t j) {
            return numerics::joined_limbs(Vec::load_s32_minus(high + j, high_correction),
                                          Vec::load_s32_minus(low + j, low_correction));
          };
          if (segments == 1) {
            finish_gradient<T>(g, i + r, p * columns, joined);
            continue;
          }
          float* row_total = total + r * columns;
          for (int64_t j = 0; j < columns; j += Vec::size) {
            (s == 0 ? joined(j) : Vec::load(row_total + j) + joined(j)).store(row_total + j);
          }
          if (s == segments - 1) {
            finish_gradient<T>(g, i + r, p * columns, [&](int64_t j) { return Vec::load(row_total + j); });
          }
        }
      }
    }
  }
}

// high * high and low * high come from one pass over a panel's high limbs, which holds both halves of the gradient's rows;
// high * low from a pass over its low limbs, which holds twice the rows.
template <typename T, typename Tile>
void run_gemm_limb_pairs_of(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  constexpr int64_t half = Tile::half, rows_max = 2 * half, columns = kPanelColumns;
  alignas(64) int32_t by_high[2][rows_max * columns], by_low[rows_max * columns];
  alignas(64) float total[rows_max * columns];
  const int64_t segments = segment_count(g.reduction_bytes);
  Tile tile;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const uint8_t* panel = g.panels + (p - g.first_panel) * 2 * g.reduction_bytes * columns;
    for (int64_t i = row_begin; i < row_end; i += rows_max) {
      const int64_t rows = std::min(rows_max, row_end - i), rows0 = std::min(half, rows);
      for (int64_t s = 0; s < segments; ++s) {
        const int64_t r0 = s * kSegment, steps = (std::min(g.reduction_bytes, r0 + kSegment) - r0) / 4;
        const uint8_t *high = g.a_high + i * g.lda + r0, *low = g.a_low + i * g.lda + r0, *b = panel + r0 * columns;
        tile.template multiply<S8U8>(high, rows0, low, rows0, g.lda, b, steps, by_high[0]);
        if (rows > half) {
          tile.template multiply<S8U8>(high + half * g.lda, rows - half, low + half * g.lda, rows - half, g.lda, b, steps,
                                       by_high[1]);
        }
        tile.template multiply<S8U8>(high, rows0, high + half * g.lda, rows - rows0, g.lda, b + g.reduction_bytes * columns,
                                     steps, by_low);
        for (int64_t r = 0; r < rows; ++r) {
          const int32_t* high_high = by_high[r / half] + r % half * columns;
          const int32_t *low_high = high_high + half * columns, *high_low = by_low + r * columns;
          const int32_t high_correction = g.corrections[2 * s * g.m + i + r];
          const int32_t low_correction = g.corrections[(2 * s + 1) * g.m + i + r];
          const auto joined = [&](int64_t j) {
            const Vec lower = Vec::load_s32_minus(low_high + j, low_correction) + Vec::load_s32_minus(high_low + j, high_correction);
            return numerics::joined_limbs(Vec::load_s32_minus(high_high + j, high_correction), lower);
          };
          float* row_total = total + r * columns;
          const bool last = s == segments - 1;
          if (segments > 1) {
            for (int64_t j = 0; j < columns; j += Vec::size) {
              (s == 0 ? joined(j) : Vec::load(row_total + j) + joined(j)).store(row_total + j);
            }
          }
          if (last) {
            finish_gradient<T>(g, i + r, p * columns, [&](int64_t j) {
              return (segments == 1 ? joined(j) : Vec::load(row_total + j)) * Vec::load(g.column_scale + p * columns + j);
            });
          }
        }
      }
    }
  }
}

template <typename T, typename Tile>
void run_gemm_bf16_of(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  constexpr int64_t half = Tile::half, rows_max = 2 * half, columns = kPanelColumns;
  alignas(64) float acc[rows_max * columns];
  Tile tile;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const uint8_t* panel = g.panels + (p - g.first_panel) * g.reduction_bytes * columns;
    for (int64_t i = row_begin; i < row_end; i += rows_max) {
      const int64_t rows = std::min(rows_max, row_end - i), rows0 = std::min(half, rows);
      const uint8_t* a = g.a_high + i * g.lda;
      tile.template multiply<BF16>(a, rows0, a + half * g.lda, rows - rows0, g.lda, panel, g.reduction_bytes / 4,
                                   reinterpret_cast<int32_t*>(acc));
      for (int64_t r = 0; r < rows; ++r) {
        finish_gradient<T>(g, i + r, p * columns, [&](int64_t j) { return Vec::load(acc + r * columns + j); });
      }
    }
  }
}

template <typename F>
TORCHQAT_INLINE void with_output_type(FloatType type, F f) {
  switch (type) {
    case FloatType::float32: return f.template operator()<float>();
    case FloatType::bfloat16: return f.template operator()<Bf16>();
    case FloatType::float16: return f.template operator()<Half>();
  }
}

template <typename Tile>
void run_gemm_limbs(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  with_output_type(g.type, [&]<typename T>() { run_gemm_limbs_of<T, Tile>(g, row_begin, row_end, panel_begin, panel_end); });
}

template <typename Tile>
void run_gemm_limb_pairs(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  with_output_type(g.type,
                   [&]<typename T>() { run_gemm_limb_pairs_of<T, Tile>(g, row_begin, row_end, panel_begin, panel_end); });
}

template <typename Tile>
void run_gemm_bf16(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  with_output_type(g.type, [&]<typename T>() { run_gemm_bf16_of<T, Tile>(g, row_begin, row_end, panel_begin, panel_end); });
}

}  // namespace
}  // namespace torchqat::cpu
