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

// `width` columns from `column` on, of which `most` at most are written.
template <typename T, int64_t width = kPanelColumns, typename Load>
TORCHQAT_INLINE void finish_gradient(const GemmGrad& g, int64_t row, int64_t column, Load load, int64_t most = width) {
  const int64_t count = std::min(most, g.n - column);
  const Vec factor((g.row_scale != nullptr ? g.row_scale[row] : 1.0f) * g.factor);
  T* out = static_cast<T*>(g.out) + row * g.ldo + column;
  alignas(64) T buffer[width];
  T* y = count == width ? out : buffer;
  const bool past_cache = g.m * g.ldo >= kStreamedSize && reinterpret_cast<uintptr_t>(y) % 64 == 0 && y == out;
  uint64_t inside = ~uint64_t{0};
  if (g.mask != nullptr) {
    const uint8_t* bits = g.mask + row * g.ld_mask + column / 8;
    const int64_t before = column % 8;
    if (count == width && before == 0) {
      std::memcpy(&inside, bits, width / 8);  // a constant size is one load, not a call
    } else {
      std::memcpy(&inside, bits, static_cast<size_t>((before + count + 7) / 8));
      inside >>= before;
    }
  }
  for (int64_t j = 0; j < width; j += Vec::size) {
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
void run_gemm_bf16(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  with_output_type(g.type, [&]<typename T>() { run_gemm_bf16_of<T, Tile>(g, row_begin, row_end, panel_begin, panel_end); });
}

}  // namespace
}  // namespace torchqat::cpu
