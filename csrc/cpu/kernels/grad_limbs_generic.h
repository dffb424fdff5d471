// Statistics and limbs of a gradient, compiled once per instruction set. Sixteen values at a time; what is left of a row is
// read through a padded copy.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/grad_limbs.h"
#include "cpu/kernels/panels.h"
#include "cpu/vec/vec.h"
#include "numerics/limbs.h"

namespace torchqat::cpu {
namespace {

using numerics::Vec;

// Calls f(pointer to kStep values, column) along columns [begin, end); the last pointer may be to a zero-padded copy.
template <int kStep, typename T, typename F>
TORCHQAT_INLINE void for_columns(const T* row, int64_t begin, int64_t end, F f) {
  int64_t j = begin;
  for (; j + kStep <= end; j += kStep) f(row + j, j);
  if (j < end) {
    T rest[kStep] = {};
    std::memcpy(rest, row + j, static_cast<size_t>(end - j) * sizeof(T));
    f(rest, j);
  }
}

template <typename T>
void grad_stats_of(const GradSource& s, const GradStats& stats, int64_t chunk_begin, int64_t chunk_end) {
  constexpr int64_t padded = kGradChunk + 16, sum_rows = 16;
  alignas(64) float factor[padded], column_max[padded], partial[padded], total[padded];
  for (int64_t chunk = chunk_begin; chunk < chunk_end; ++chunk) {
    const int64_t first = chunk * kGradChunk, count = std::min(kGradChunk, s.n - first);
    std::memset(column_max, 0, sizeof column_max);
    std::memset(partial, 0, sizeof partial);
    std::memset(total, 0, sizeof total);
    for (int64_t j = 0; j < padded; ++j) factor[j] = j < count ? s.column_factor[(first + j) * s.column_stride] : 0.0f;
    for (int64_t i = 0; i < s.m; ++i) {
      const T* row = static_cast<const T*>(s.grad) + i * s.n + first;
      const Vec row_factor(s.row_factor != nullptr ? s.row_factor[i] : 1.0f);
      Vec largest(0.0f);
      for_columns<16>(row, 0, count, [&](const T* g, int64_t at) __attribute__((always_inline)) {
        for (int l = 0; l < 16; l += Vec::size) {
          const int64_t j = at + l;
          const Vec grad = Vec::load(g + l);
          largest = numerics::lane_max_bits(lane_abs(grad * Vec::load(factor + j)), largest);
          numerics::lane_max_bits(lane_abs(grad * row_factor), Vec::load(column_max + j)).store(column_max + j);
          (Vec::load(partial + j) + grad).store(partial + j);
        }
      });
      alignas(64) float lanes[Vec::size];
      largest.store(lanes);
      float row_max = 0.0f;
      for (float lane : lanes) row_max = numerics::larger_or_nan(lane, row_max);
      stats.row_max[chunk * s.m + i] = row_max;
      // Sums in blocks of rows: the error grows with the number of blocks, not of rows.
      if (i % sum_rows == sum_rows - 1 || i == s.m - 1) {
        for (int64_t j = 0; j < count; j += Vec::size) {
          (Vec::load(total + j) + Vec::load(partial + j)).store(total + j);
          Vec(0.0f).store(partial + j);
        }
      }
    }
    std::memcpy(stats.column_max + first, column_max, static_cast<size_t>(count) * sizeof(float));
    if (stats.column_sum != nullptr) {
      std::memcpy(stats.column_sum + first, total, static_cast<size_t>(count) * sizeof(float));
    }
  }
}

// Limbs of 16 values already multiplied by their factor, and what their line's sums take in.
struct Limbs16 {
  alignas(64) int32_t value[16];
  TORCHQAT_INLINE int32_t high(int i) const { return (value[i] + 128) >> 8; }
  TORCHQAT_INLINE int32_t low(int i) const { return value[i] - high(i) * 256; }
};

template <typename T>
TORCHQAT_INLINE void split16(const T* g, const float* factor, Vec row_factor, const float* inverse, Vec row_inverse,
                             Limbs16& out) {
  for (int l = 0; l < 16; l += Vec::size) {
    const Vec scaled = Vec::load(g + l) * (factor != nullptr ? Vec::load(factor + l) : row_factor);
    numerics::limb_value(scaled, inverse != nullptr ? Vec::load(inverse + l) : row_inverse).store_s32(out.value + l);
  }
}

TORCHQAT_INLINE void add_wrapping(int32_t& sum, int32_t a, int32_t b) {
  sum = static_cast<int32_t>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}

template <typename T>
void split_rows_of(const GradSource& s, const LimbLines& lines, int64_t row_begin, int64_t row_end) {
  for (int64_t i = row_begin; i < row_end; ++i) {
    const T* row = static_cast<const T*>(s.grad) + i * s.n;
    uint8_t *high = lines.high + i * lines.ld, *low = lines.low + i * lines.ld;
    std::memset(high + s.n / 16 * 16, 0, static_cast<size_t>(lines.ld - s.n / 16 * 16));
    std::memset(low + s.n / 16 * 16, 0, static_cast<size_t>(lines.ld - s.n / 16 * 16));
    for (int64_t segment = 0; segment < segment_count(s.n); ++segment) {
      int32_t sums[2] = {0, 0};
      for_columns<16>(row, segment * kSegment, std::min(s.n, (segment + 1) * kSegment), [&](const T* g, int64_t j) {
        alignas(64) float factor[16];
        for (int l = 0; l < 16; ++l) factor[l] = j + l < s.n ? s.column_factor[(j + l) * s.column_stride] : 0.0f;
        Limbs16 limbs;
        split16(g, factor, Vec(1.0f), nullptr, Vec(lines.inverse[i]), limbs);
        for (int l = 0; l < 16 && j + l < lines.ld; ++l) {
          high[j + l] = static_cast<uint8_t>(limbs.high(l));
          low[j + l] = static_cast<uint8_t>(limbs.low(l));
          add_wrapping(sums[0], limbs.high(l), lines.weight);
          add_wrapping(sums[1], limbs.low(l), lines.weight);
        }
      });
      lines.sums[(segment * 2) * s.m + i] = sums[0];
      lines.sums[(segment * 2 + 1) * s.m + i] = sums[1];
    }
  }
}

template <typename T>
void split_columns_of(const GradSource& s, const LimbLines& lines, int64_t block_begin, int64_t block_end) {
  const int64_t columns = std::min(s.n, block_end * 64);
  for (int64_t segment = 0; segment < 2 * segment_count(s.m); ++segment) {
    std::fill(lines.sums + segment * s.n + block_begin * 64, lines.sums + segment * s.n + columns, 0);
  }
  for (int64_t first = block_begin * 64; first < columns; first += 16) {
    const int64_t count = std::min<int64_t>(16, columns - first);
    alignas(64) float inverse[16] = {};
    std::memcpy(inverse, lines.inverse + first, static_cast<size_t>(count) * sizeof(float));
    for (int64_t c = first; c < first + count; ++c) {
      std::memset(lines.high + c * lines.ld + s.m, 0, static_cast<size_t>(lines.ld - s.m));
      std::memset(lines.low + c * lines.ld + s.m, 0, static_cast<size_t>(lines.ld - s.m));
    }
    for (int64_t i = 0; i < s.m; ++i) {
      int32_t* sums = lines.sums + i / kSegment * 2 * s.n + first;
      const int32_t weight = lines.weights != nullptr ? lines.weights[i] : lines.weight;
      const Vec row_factor(s.row_factor != nullptr ? s.row_factor[i] : 1.0f);
      for_columns<16>(static_cast<const T*>(s.grad) + i * s.n, first, first + count, [&](const T* g, int64_t) {
        Limbs16 limbs;
        split16(g, nullptr, row_factor, inverse, Vec(0.0f), limbs);
        for (int l = 0; l < count; ++l) {
          lines.high[(first + l) * lines.ld + i] = static_cast<uint8_t>(limbs.high(l));
          lines.low[(first + l) * lines.ld + i] = static_cast<uint8_t>(limbs.low(l));
          add_wrapping(sums[l], limbs.high(l), weight);
          add_wrapping(sums[s.n + l], limbs.low(l), weight);
        }
      });
    }
  }
}

// f<T>() for the gradient's type.
template <typename F>
TORCHQAT_INLINE void with_type(FloatType type, F f) {
  switch (type) {
    case FloatType::float32: return f.template operator()<float>();
    case FloatType::bfloat16: return f.template operator()<Bf16>();
    case FloatType::float16: return f.template operator()<Half>();
  }
}

}  // namespace
}  // namespace torchqat::cpu
