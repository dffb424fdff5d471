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
  constexpr int64_t at_once = 64;
  const int64_t groups = w.groups(), lines = padded64(w.n);
  alignas(64) float most[at_once], inverse[at_once];
  alignas(64) int16_t values[at_once];
  for (int64_t first = group_begin; first < group_end; first += at_once) {
    const int64_t count = std::min(at_once, group_end - first);
    std::fill(most, most + at_once, 0.0f);
    for (int64_t i = 0; i < w.n; ++i) {
      const float* s = w.scale + i * groups + first;
      for (int64_t g = 0; g < count; ++g) most[g] = numerics::larger_or_nan(s[g], most[g]);
    }
    for (int64_t g = 0; g < count; ++g) {
      inverse[g] = numerics::limb_inverse(most[g]);
      unit[first + g] = numerics::limb_scale(most[g]) * 32768.0f;
      std::fill(out + (first + g) * lines + w.n, out + (first + g + 1) * lines, int16_t{0});
    }
    for (int64_t i = 0; i < w.n; ++i) {
      const float* s = w.scale + i * groups + first;
      for_columns<16>(s, 0, count, [&](const float* part, int64_t g) __attribute__((always_inline)) {
        for (int l = 0; l < 16; l += Vec::size) {
          numerics::limb_value(Vec::load(part + l), Vec::load(inverse + g + l)).store(values + g + l);
        }
      });
      for (int64_t g = 0; g < count; ++g) out[(first + g) * lines + i] = values[g];
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
        const int8_t* q[2];
        int8_t padded[2][kBlockColumns] = {};
        for (int64_t t = 0; t < 2; ++t) {
          q[t] = w.codes + (i + t) * w.k + block.first;
          if (i + t < w.n && block.count == kBlockColumns) continue;
          if (i + t < w.n) std::memcpy(padded[t], q[t], static_cast<size_t>(block.count));
          q[t] = padded[t];
        }
        uint32_t pairs[kBlockColumns];
        for (int64_t j = 0; j < kBlockColumns; ++j) {
          pairs[j] = static_cast<uint32_t>(q[0][j] & 0xffff) | static_cast<uint32_t>(q[1][j]) << 16;
        }
        std::memcpy(out + ((b - block_begin + c) * lines + i) * kBlockColumns, pairs, sizeof pairs);
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
