// AVX-VNNI tile of 6 rows x 64 columns on vpdpbusd: sixteen columns at a time, of which twelve registers hold the sums.
#pragma once
#include "cpu/kernels/dot_avxvnni.h"
#include "cpu/kernels/panels.h"
#include "cpu/kernels/unrolled.h"

namespace torchqat::cpu {
namespace {

struct AvxVnniTile {
  static constexpr int64_t half = 3;

  template <typename Op, int rows0, int rows1>
  static void rows(const uint8_t* a0, const uint8_t* a1, int64_t lda, const uint8_t* panel, int64_t steps, int32_t* acc) {
    constexpr int count = rows0 + rows1, ahead = 4096;
    for (int64_t j = 0; j < kPanelColumns; j += 16) {
      __m256i sum[count * 2];
      unrolled<count * 2>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm256_setzero_si256(); });
      const uint8_t *x0 = a0, *x1 = a1, *b = panel + 4 * j;
      // Four steps to a round: the loop's own instructions would take the products' ports.
      for (int64_t s = 0; s < steps; s += 4, x0 += 16, x1 += 16, b += 16 * kPanelColumns) {
        unrolled<4>([&](auto step) __attribute__((always_inline)) {
          _mm_prefetch(reinterpret_cast<const char*>(b + 4 * kPanelColumns * step + ahead), _MM_HINT_T0);
          const __m256i left = load32(b + 4 * kPanelColumns * step), right = load32(b + 4 * kPanelColumns * step + 32);
          unrolled<count>([&](auto r) __attribute__((always_inline)) {
            constexpr int row = decltype(r)::value;
            const __m256i a = broadcast4((row < rows0 ? x0 + row * lda : x1 + (row - rows0) * lda) + 4 * step);
            sum[2 * row] = dot<Op>(sum[2 * row], a, left);
            sum[2 * row + 1] = dot<Op>(sum[2 * row + 1], a, right);
          });
        });
      }
      unrolled<count * 2>([&](auto i) __attribute__((always_inline)) {
        constexpr int r = i / 2, row = r < rows0 ? r : half + r - rows0;
        _mm256_store_si256(reinterpret_cast<__m256i*>(acc + row * kPanelColumns + j + 8 * (i % 2)), sum[i]);
      });
    }
  }

  // One row is bound by reading the panel: in order, and the lines a little ahead asked for early.
  template <typename Op>
  static void one_row(const uint8_t* a, const uint8_t* b, int64_t steps, int32_t* acc) {
    constexpr int ahead = 4096;
    __m256i sum[8];
    unrolled<8>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm256_setzero_si256(); });
    for (int64_t s = 0; s < steps; ++s, a += 4, b += 4 * kPanelColumns) {
      const __m256i x = broadcast4(a);
      unrolled<8>([&](auto i) __attribute__((always_inline)) {
        if constexpr (i % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(b + 32 * i + ahead), _MM_HINT_T0);
        sum[i] = dot<Op>(sum[i], x, load32(b + 32 * i));
      });
    }
    unrolled<8>([&](auto i) __attribute__((always_inline)) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(acc + 8 * i), sum[i]);
    });
  }

  template <typename Op>
  void multiply(const uint8_t* a0, int64_t rows0, const uint8_t* a1, int64_t rows1, int64_t lda, const uint8_t* panel,
                int64_t steps, int32_t* acc) const {
    switch (rows0 * 4 + rows1) {
      case 4: return one_row<Op>(a0, panel, steps, acc);
      case 8: return rows<Op, 2, 0>(a0, a1, lda, panel, steps, acc);
      case 12: return rows<Op, 3, 0>(a0, a1, lda, panel, steps, acc);
      case 5: return rows<Op, 1, 1>(a0, a1, lda, panel, steps, acc);
      case 10: return rows<Op, 2, 2>(a0, a1, lda, panel, steps, acc);
      case 13: return rows<Op, 3, 1>(a0, a1, lda, panel, steps, acc);
      case 14: return rows<Op, 3, 2>(a0, a1, lda, panel, steps, acc);
      default: return rows<Op, 3, 3>(a0, a1, lda, panel, steps, acc);
    }
  }
};

}  // namespace
}  // namespace torchqat::cpu
