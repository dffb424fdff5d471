// AVX-512 tile of 6 rows x 64 columns on vpdpbusd (or vdpbf16ps, in files compiled for it). The instructions are written
// as inline assembly: from the intrinsics gcc 12 spills the 24 accumulators.
#pragma once
#include <type_traits>

#include "cpu/kernels/dot_avx512.h"
#include "cpu/kernels/panels.h"
#include "cpu/kernels/unrolled.h"

namespace torchqat::cpu {
namespace {

struct Avx512Tile {
  static constexpr int64_t half = 3;
  // A panel is longer than the first-level cache: its lines are asked for this many bytes before their turn.
  static constexpr int kNear = 2048;

  // What comes after this panel, and how many whole tiles will read this one: they bring it to the second-level cache, spread
  // over up to 16 of them, for memory that answers slowly would hold up a tile that asked for all.
  void expect(const uint8_t* next, int64_t bytes, int64_t tiles) {
    next_ = next;
    stride_ = tiles < 4 ? 128 : tiles < 8 ? 64 : tiles < 16 ? 32 : 16;
    steps_left_ = bytes / stride_;
  }

  template <typename Op, int rows0, int rows1, int far_lines = 0>
  static void rows(const uint8_t* a0, const uint8_t* a1, int64_t lda, const uint8_t* b, int64_t steps, int32_t* acc,
                   const uint8_t* far = nullptr, int64_t far_stride = 0) {
    constexpr int count = rows0 + rows1;
    __m512i sum[count * 4];
    unrolled<count * 4>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm512_setzero_si512(); });
    for (int64_t s = 0; s < steps; ++s, a0 += 4, a1 += 4, b += 4 * kPanelColumns) {
      __m512i column[4];
      unrolled<4>([&](auto q) __attribute__((always_inline)) { column[q] = _mm512_loadu_si512(b + 64 * q); });
      unrolled<4>([&](auto q) __attribute__((always_inline)) {
        _mm_prefetch(reinterpret_cast<const char*>(b + 64 * q + kNear), _MM_HINT_T0);
      });
      unrolled<far_lines>([&](auto q) __attribute__((always_inline)) {
        _mm_prefetch(reinterpret_cast<const char*>(far + 64 * q), _MM_HINT_T1);
      });
      if constexpr (far_lines > 0) far += far_stride;
      unrolled<count>([&](auto r) __attribute__((always_inline)) {
        constexpr int row = decltype(r)::value, first = 4 * row;
        const __m512i a = broadcast4(row < rows0 ? a0 + row * lda : a1 + (row - rows0) * lda);
        sum[first] = dot<Op>(sum[first], a, column[0]);
        sum[first + 1] = dot<Op>(sum[first + 1], a, column[1]);
        sum[first + 2] = dot<Op>(sum[first + 2], a, column[2]);
        sum[first + 3] = dot<Op>(sum[first + 3], a, column[3]);
      });
    }
    unrolled<count * 4>([&](auto i) __attribute__((always_inline)) {
      constexpr int r = i / 4, row = r < rows0 ? r : half + r - rows0;
      _mm512_store_si512(acc + row * kPanelColumns + 16 * (i % 4), sum[i]);
    });
  }

  // One row is bound by reading the panel: four steps at once, and the lines a little ahead asked for early.
  template <typename Op>
  static void one_row(const uint8_t* a, const uint8_t* b, int64_t steps, int32_t* acc) {
    constexpr int ahead = 4096;
    __m512i sum[16];
    unrolled<16>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm512_setzero_si512(); });
    for (int64_t s = 0; s < steps; s += 4, a += 16, b += 16 * kPanelColumns) {
      unrolled<16>([&](auto i) __attribute__((always_inline)) {
        _mm_prefetch(reinterpret_cast<const char*>(b + 64 * i + ahead), _MM_HINT_T0);
        sum[i] = dot<Op>(sum[i], broadcast4(a + i / 4 * 4), _mm512_loadu_si512(b + 64 * i));
      });
    }
    unrolled<4>([&](auto q) __attribute__((always_inline)) {
      const __m512i left = _mm512_add_epi32(sum[q], sum[q + 4]), right = _mm512_add_epi32(sum[q + 8], sum[q + 12]);
      _mm512_store_si512(acc + 16 * q, _mm512_add_epi32(left, right));
    });
  }

  template <typename Op>
  void multiply(const uint8_t* a0, int64_t rows0, const uint8_t* a1, int64_t rows1, int64_t lda, const uint8_t* panel,
                int64_t steps, int32_t* acc) {
    switch (rows0 * 4 + rows1) {
      case 4:
        if constexpr (std::is_same_v<Op, BF16>) return rows<Op, 1, 0>(a0, a1, lda, panel, steps, acc);
        else return one_row<Op>(a0, panel, steps, acc);
      case 8: return rows<Op, 2, 0>(a0, a1, lda, panel, steps, acc);
      case 12: return rows<Op, 3, 0>(a0, a1, lda, panel, steps, acc);
      case 5: return rows<Op, 1, 1>(a0, a1, lda, panel, steps, acc);
      case 10: return rows<Op, 2, 2>(a0, a1, lda, panel, steps, acc);
      case 13: return rows<Op, 3, 1>(a0, a1, lda, panel, steps, acc);
      case 14: return rows<Op, 3, 2>(a0, a1, lda, panel, steps, acc);
      default: {
        if (steps_left_ <= 0) return rows<Op, 3, 3>(a0, a1, lda, panel, steps, acc);
        const uint8_t* far = next_;
        next_ += steps * stride_;
        steps_left_ -= steps;
        return stride_ <= 64 ? rows<Op, 3, 3, 1>(a0, a1, lda, panel, steps, acc, far, stride_)
                             : rows<Op, 3, 3, 2>(a0, a1, lda, panel, steps, acc, far, stride_);
      }
    }
  }

 private:
  const uint8_t* next_ = nullptr;
  int64_t steps_left_ = 0, stride_ = 64;
};

}  // namespace
}  // namespace torchqat::cpu
