// dx of a weight in groups: the avx512 path.
#include <immintrin.h>

#include "cpu/kernels/gemm_groups_generic.h"
#include "cpu/kernels/unrolled.h"

namespace torchqat::cpu {
namespace {

// Twelve rows: the panels, twice as wide as bytes, are read half as often as six rows of 64 columns would.
struct Avx512GroupsTile {
  static constexpr int most = 12, some = 4;
  // A panel is longer than the first-level cache: its lines are asked for this many bytes before their turn.
  static constexpr int64_t near = 2048;

  // Inline assembly: from the intrinsics gcc 12 spills the accumulators.
  static TORCHQAT_INLINE __m512i add(__m512i sum, __m512i a, __m512i b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }

  template <int count>
  static void rows(const int16_t* a, const int16_t* b, int64_t steps, int32_t* acc) {
    __m512i sum[2 * count];
    unrolled<2 * count>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm512_setzero_si512(); });
    for (int64_t s = 0; s < steps; ++s, a += 2, b += 2 * kBlockColumns) {
      const __m512i left = _mm512_loadu_si512(b), right = _mm512_loadu_si512(b + kBlockColumns);
      _mm_prefetch(reinterpret_cast<const char*>(b) + near, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(b) + near + 64, _MM_HINT_T0);
      unrolled<count>([&](auto r) __attribute__((always_inline)) {
        int32_t pair;
        std::memcpy(&pair, a + r * kGroupLines, 4);
        const __m512i x = _mm512_set1_epi32(pair);
        constexpr int at = 2 * decltype(r)::value;
        sum[at] = add(sum[at], x, left);
        sum[at + 1] = add(sum[at + 1], x, right);
      });
    }
    unrolled<2 * count>([&](auto i) __attribute__((always_inline)) { _mm512_store_si512(acc + 16 * i, sum[i]); });
  }
};

// Rows that all panels pass before the next rows come, so that they stay in the second-level cache.
constexpr int64_t kRowsAtOnce = 96;

}  // namespace

void gemm_groups_avx512(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  for (int64_t i = row_begin; i < row_end; i += kRowsAtOnce) {
    run_gemm_groups<Avx512GroupsTile>(g, i, std::min(row_end, i + kRowsAtOnce), panel_begin, panel_end);
  }
}

}  // namespace torchqat::cpu
