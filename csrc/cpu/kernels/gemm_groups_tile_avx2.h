// Tile of six rows and 32 columns on 256-bit vectors, sixteen columns at a time, of which twelve registers hold the sums. Add
// adds the products of pairs of 16-bit integers to a sum.
#pragma once
#include <immintrin.h>

#include <cstring>

#include "cpu/kernels/gemm_groups.h"
#include "cpu/kernels/unrolled.h"

namespace torchqat::cpu {
namespace {

template <typename Add>
struct GroupsTile256 {
  static constexpr int most = 6, some = 2;

  template <int count>
  static void rows(const int16_t* a, const int16_t* b, int64_t steps, int32_t* acc) {
    for (int64_t j = 0; j < kBlockColumns; j += 16) {
      __m256i sum[2 * count];
      unrolled<2 * count>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm256_setzero_si256(); });
      for (int64_t s = 0; s < steps; ++s) {
        const auto* columns = reinterpret_cast<const __m256i*>(b + 2 * (s * kBlockColumns + j));
        const __m256i left = _mm256_loadu_si256(columns), right = _mm256_loadu_si256(columns + 1);
        unrolled<count>([&](auto r) __attribute__((always_inline)) {
          int32_t pair;
          std::memcpy(&pair, a + r * kGroupLines + 2 * s, 4);
          const __m256i x = _mm256_set1_epi32(pair);
          sum[2 * r] = Add::add(sum[2 * r], x, left);
          sum[2 * r + 1] = Add::add(sum[2 * r + 1], x, right);
        });
      }
      unrolled<2 * count>([&](auto i) __attribute__((always_inline)) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(acc + i / 2 * kBlockColumns + j + 8 * (i % 2)), sum[i]);
      });
    }
  }
};

}  // namespace
}  // namespace torchqat::cpu
