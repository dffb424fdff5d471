// Limb products over a short reduction (a weight's gradient from a few rows): the result is all the work, so it is written row
// by row, and the zeros that pad the reduction are not multiplied. VNNI; used by the avx512 and amx paths.
#pragma once
#include <immintrin.h>

#include "cpu/kernels/gemm_grad_generic.h"

namespace torchqat::cpu {
namespace {

constexpr int64_t kShortReduction = 32;  // bytes

// `count` rows of one panel, all limbs' sums in registers.
template <typename T, int count>
TORCHQAT_INLINE void short_rows(const GemmGrad& g, int64_t row, int64_t p, int64_t words) {
  const uint8_t* panel = g.panels + (p - g.first_panel) * g.reduction_bytes * kPanelColumns;
  const uint8_t *high = g.a_high + row * g.lda, *low = g.a_low + row * g.lda;
  const auto word = [](const uint8_t* a) __attribute__((always_inline)) {
    int32_t limbs;
    std::memcpy(&limbs, a, 4);
    return _mm512_set1_epi32(limbs);
  };
  alignas(64) float joined[count][kPanelColumns];
  for (int64_t j = 0; j < kPanelColumns; j += 16) {
    __m512i sum[2 * count];
#pragma GCC unroll 8
    for (int r = 0; r < 2 * count; ++r) sum[r] = _mm512_setzero_si512();
    for (int64_t w = 0; w < words; ++w) {
      const __m512i codes = _mm512_loadu_si512(panel + (w * kPanelColumns + j) * 4);
#pragma GCC unroll 8
      for (int r = 0; r < count; ++r) {
        sum[2 * r] = _mm512_dpbusd_epi32(sum[2 * r], codes, word(high + r * g.lda + 4 * w));
        sum[2 * r + 1] = _mm512_dpbusd_epi32(sum[2 * r + 1], codes, word(low + r * g.lda + 4 * w));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < count; ++r) {
      const auto exact = [&](__m512i value, int32_t correction) __attribute__((always_inline)) {
        return Vec(_mm512_cvtepi32_ps(_mm512_sub_epi32(value, _mm512_set1_epi32(correction))));
      };
      numerics::joined_limbs(exact(sum[2 * r], g.corrections[row + r]), exact(sum[2 * r + 1], g.corrections[g.m + row + r]))
          .store(joined[r] + j);
    }
  }
  for (int r = 0; r < count; ++r) {
    finish_gradient<T>(g, row + r, p * kPanelColumns, [&](int64_t j) { return Vec::load(joined[r] + j); });
  }
}

template <typename T>
void run_gemm_limbs_short_of(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  const int64_t words = (g.used_bytes + 3) / 4;
  int64_t i = row_begin;
  for (; i + 4 <= row_end; i += 4) {
    for (int64_t p = panel_begin; p < panel_end; ++p) short_rows<T, 4>(g, i, p, words);
  }
  for (; i < row_end; ++i) {
    for (int64_t p = panel_begin; p < panel_end; ++p) short_rows<T, 1>(g, i, p, words);
  }
}

// True if the product was made here.
TORCHQAT_INLINE bool run_gemm_limbs_short(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                                          int64_t panel_end) {
  if (g.used_bytes == 0 || g.used_bytes > kShortReduction) return false;
  with_output_type(g.type, [&]<typename T>() {
    run_gemm_limbs_short_of<T>(g, row_begin, row_end, panel_begin, panel_end);
  });
  return true;
}

}  // namespace
}  // namespace torchqat::cpu
