// The operands of gemm_groups.h, compiled once per instruction set: rows, scales and codes as 16-bit integers.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/gemm_groups.h"
#include "cpu/kernels/grad_limbs_generic.h"

namespace torchqat::cpu {
namespace {

// Where a block's columns lie.
struct BlockColumns {
  int64_t group = 0, first = 0, count = 0;

  BlockColumns() = default;
  TORCHQAT_INLINE BlockColumns(int64_t k, int64_t group_size, int64_t block) {
    const int64_t of_group = (group_size + kBlockColumns - 1) / kBlockColumns;
    group = block / of_group;
    first = group * group_size + block % of_group * kBlockColumns;
    count = std::min({kBlockColumns, (group + 1) * group_size - first, k - first});
  }
};

template <typename T>
void rows_to_s16_of(const GradSource& s, const float* inverse, int16_t* out, int64_t ld, int64_t row_begin, int64_t row_end) {
  const int64_t lines = padded64(s.n);
  for (int64_t i = row_begin; i < row_end; ++i) {
    int16_t* to = out + i * ld;
    std::fill(to + s.n / 16 * 16, to + lines, int16_t{0});
    for_columns<16>(static_cast<const T*>(s.grad) + i * s.n, 0, s.n, [&](const T* g, int64_t j) __attribute__((always_inline)) {
      for (int l = 0; l < 16; l += Vec::size) numerics::limb_value(Vec::load(g + l), Vec(inverse[i])).store(to + j + l);
    });
  }
}

TORCHQAT_INLINE void rows_to_s16(const GradSource& s, const float* inverse, int16_t* out, int64_t ld, int64_t row_begin,
                                 int64_t row_end) {
  with_type(s.type, [&]<typename T>() { rows_to_s16_of<T>(s, inverse, out, ld, row_begin, row_end); });
}

TORCHQAT_INLINE void scales_to_s16(const GroupedCodes& w, int16_t* out, float* unit, int64_t group_begin,
                                   int64_t group_end) {
  // Rows of a line in `out`, and groups: lines a power of two apart would push one another out of the cache, so each is
  // written at once.
  constexpr int64_t rows_at_once = 32, at_once = 64;
  const int64_t groups = w.groups(), lines = padded64(w.n);
  alignas(64) float most[at_once], inverse[at_once];
  alignas(64) int16_t values[rows_at_once][at_once];
  for (int64_t first = group_begin; first < group_end; first += at_once) {
    const int64_t count = std::min(at_once, group_end - first);
    std::fill(most, most + at_once, 0.0f);
    for (int64_t i = 0; i < w.n; ++i) {
      const float* s = w.scale + i * groups + first;
      for (int64_t g = 0; g < count; ++g) most[g] = numerics::larger_or_nan(s[g], most[g]);
    }
    for (int64_t g = 0; g < at_once; ++g) inverse[g] = numerics::limb_inverse(most[g]);
    for (int64_t g = 0; g < count; ++g) unit[first + g] = numerics::limb_scale(most[g]) * 32768.0f;
    for (int64_t i = 0; i < lines; i += rows_at_once) {
      std::memset(values, 0, sizeof values);
      for (int64_t r = 0; r < std::min(rows_at_once, w.n - i); ++r) {
        for_columns<16>(w.scale + (i + r) * groups + first, 0, count, [&](const float* s, int64_t g) __attribute__((always_inline)) {
          for (int l = 0; l < 16; l += Vec::size) {
            numerics::limb_value(Vec::load(s + l), Vec::load(inverse + g + l)).store(values[r] + g + l);
          }
        });
      }
      for (int64_t g = 0; g < count; ++g) {
        int16_t* to = out + (first + g) * lines + i;
        for (int64_t r = 0; r < rows_at_once; ++r) to[r] = values[r][g];
      }
    }
  }
}

TORCHQAT_INLINE void codes_to_blocks(const GroupedCodes& w, int16_t* out, int64_t block_begin, int64_t block_end) {
  // So many blocks together: a row's codes then come from whole lines. And so many rows ahead they are asked for: lines far
  // apart are not foreseen by the processor.
  constexpr int64_t at_once = 8, ahead = 32;
  const int64_t lines = padded64(w.n);
  for (int64_t b = block_begin; b < block_end; b += at_once) {
    const int64_t count = std::min(at_once, block_end - b);
    BlockColumns columns[at_once];
    for (int64_t c = 0; c < count; ++c) columns[c] = BlockColumns(w.k, w.group, b + c);
    for (int64_t i = 0; i < lines; i += 2) {
      for (int64_t row = i + ahead; row < std::min(w.n, i + ahead + 2); ++row) {
        for (int64_t c = 0; c < count; c += 2) __builtin_prefetch(w.codes + row * w.k + columns[c].first);
      }
      for (int64_t c = 0; c < count; ++c) {
        const BlockColumns& block = columns[c];
        const int8_t *even = w.codes + i * w.k + block.first, *odd = even + w.k;
        int8_t padded[2][kBlockColumns];
        if (i + 2 > w.n || block.count < kBlockColumns) {
          std::memset(padded, 0, sizeof padded);
          if (i < w.n) std::memcpy(padded[0], even, static_cast<size_t>(block.count));
          if (i + 1 < w.n) std::memcpy(padded[1], odd, static_cast<size_t>(block.count));
          even = padded[0];
          odd = padded[1];
        }
        int16_t* to = out + ((b - block_begin + c) * lines + i) * kBlockColumns;
        for (int64_t j = 0; j < kBlockColumns; ++j) {
          to[2 * j] = even[j];
          to[2 * j + 1] = odd[j];
        }
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
