// Statistics and limbs of a gradient: the avx2 path. A value fits 16 bits, where it is split and weighted.
#include <immintrin.h>

#include "cpu/kernels/grad_limbs_generic.h"
#include "cpu/kernels/transpose8_avx2.h"

namespace torchqat::cpu {
namespace {

template <typename T>
TORCHQAT_INLINE __m256i limbs_of(const T* g, Vec factor, Vec inverse) {
  return _mm256_cvttps_epi32(numerics::limb_value(Vec::load(g) * factor, inverse).v);
}
// High limbs of 16-bit values; none is so large that the sum overflows. The low byte of a value is its low limb.
TORCHQAT_INLINE __m256i high_of(__m256i values) { return _mm256_srai_epi16(_mm256_add_epi16(values, _mm256_set1_epi16(128)), 8); }
TORCHQAT_INLINE __m256i low_bytes(__m256i a, __m256i b) {
  const __m256i low = _mm256_set1_epi16(0xff);
  return _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
}
TORCHQAT_INLINE int32_t sum_of(__m256i x) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

template <typename T>
void split_rows_wide(const GradSource& s, const LimbLines& lines, int64_t row_begin, int64_t row_end) {
  if (s.column_stride != 1 || s.n % 32 != 0 || s.n > kSegment) return split_rows_of<T>(s, lines, row_begin, row_end);
  const __m256i one = _mm256_set1_epi16(1), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t i = row_begin; i < row_end; ++i) {
    const T* row = static_cast<const T*>(s.grad) + i * s.n;
    uint8_t *high = lines.high + i * lines.ld, *low = lines.low + i * lines.ld;
    const Vec inverse(lines.inverse[i]);
    __m256i sum = _mm256_setzero_si256(), high_sum = _mm256_setzero_si256();
    for (int64_t j = 0; j < s.n; j += 32) {
      __m256i value[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) value[v] = limbs_of(row + j + 8 * v, Vec::load(s.column_factor + j + 8 * v), inverse);
      const __m256i a = _mm256_packs_epi32(value[0], value[1]), b = _mm256_packs_epi32(value[2], value[3]);
      const __m256i a_high = high_of(a), b_high = high_of(b);
      sum = _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(a, one), _mm256_madd_epi16(b, one)));
      high_sum = _mm256_add_epi32(high_sum, _mm256_madd_epi16(_mm256_add_epi16(a_high, b_high), one));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(low + j), _mm256_permutevar8x32_epi32(low_bytes(a, b), order));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(high + j), _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a_high, b_high), order));
    }
    std::memset(high + s.n, 0, static_cast<size_t>(lines.ld - s.n));
    std::memset(low + s.n, 0, static_cast<size_t>(lines.ld - s.n));
    const int32_t all = sum_of(sum), upper = sum_of(high_sum);
    lines.sums[i] = lines.sums[s.m + i] = 0;
    add_wrapping(lines.sums[i], upper, lines.weight);
    add_wrapping(lines.sums[s.m + i], static_cast<int32_t>(static_cast<uint32_t>(all) - 256u * static_cast<uint32_t>(upper)),
                 lines.weight);
  }
}

// Sixteen columns x 32 rows at a time: four rows' bytes together, then a transposition of those groups.
template <typename T>
void split_columns_wide(const GradSource& s, const LimbLines& lines, int64_t block_begin, int64_t block_end) {
  if (s.n % 16 != 0) return split_columns_of<T>(s, lines, block_begin, block_end);
  const int64_t first = block_begin * 64, end = std::min(s.n, block_end * 64);
  for (int64_t segment = 0; segment < 2 * segment_count(s.m); ++segment) {
    std::fill(lines.sums + segment * s.n + first, lines.sums + segment * s.n + end, 0);
  }
  alignas(32) static const T zeros[16] = {};
  // Words of rows 0, 1 of four columns and of rows 2, 3: each column's together.
  const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
  for (int64_t m = 0; m < lines.ld; m += 32) {
    alignas(32) int16_t weights[32];
    alignas(32) float factors[32];
    for (int64_t i = 0; i < 32; ++i) {
      const bool inside = m + i < s.m;
      weights[i] = static_cast<int16_t>(!inside ? 0 : lines.weights != nullptr ? lines.weights[m + i] : lines.weight);
      factors[i] = inside && s.row_factor != nullptr ? s.row_factor[m + i] : 1.0f;
    }
    const int filled = static_cast<int>(std::clamp<int64_t>((s.m - m + 3) / 4, 0, 8));
    for (int64_t c = first; c < end; c += 16) {
      int32_t* sums = lines.sums + m / kSegment * 2 * s.n + c;
      __m256i low[2][8], high[2][8], all[2], upper[2];
      for (int h = 0; h < 2; ++h) {
        all[h] = upper[h] = _mm256_setzero_si256();
        for (int q = filled; q < 8; ++q) low[h][q] = high[h][q] = _mm256_setzero_si256();
      }
      for (int q = 0; q < filled; ++q) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          const Vec inverse = Vec::load(lines.inverse + c + 8 * h);
          __m256i value[4], pair[2], pair_high[2];
#pragma GCC unroll 4
          for (int t = 0; t < 4; ++t) {
            const int64_t i = m + 4 * q + t;
            const T* g = i < s.m ? static_cast<const T*>(s.grad) + i * s.n + c : zeros;
            value[t] = limbs_of(g + 8 * h, Vec(factors[4 * q + t]), inverse);
          }
#pragma GCC unroll 2
          for (int t = 0; t < 2; ++t) {
            pair[t] = _mm256_blend_epi16(value[2 * t], _mm256_slli_epi32(value[2 * t + 1], 16), 0xaa);
            pair_high[t] = high_of(pair[t]);
            int32_t weight;
            std::memcpy(&weight, weights + 4 * q + 2 * t, 4);
            all[h] = _mm256_add_epi32(all[h], _mm256_madd_epi16(pair[t], _mm256_set1_epi32(weight)));
            upper[h] = _mm256_add_epi32(upper[h], _mm256_madd_epi16(pair_high[t], _mm256_set1_epi32(weight)));
          }
          low[h][q] = _mm256_shuffle_epi8(low_bytes(pair[0], pair[1]), order);
          high[h][q] = _mm256_shuffle_epi8(_mm256_packs_epi16(pair_high[0], pair_high[1]), order);
        }
      }
      for (int h = 0; h < 2; ++h) {
        const auto add = [](int32_t* to, __m256i x) {
          auto* at = reinterpret_cast<__m256i*>(to);
          _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), x));
        };
        add(sums + 8 * h, upper[h]);
        add(sums + s.n + 8 * h, _mm256_sub_epi32(all[h], _mm256_slli_epi32(upper[h], 8)));
        store_transposed(low[h], lines.low + (c + 8 * h) * lines.ld + m, lines.ld);
        store_transposed(high[h], lines.high + (c + 8 * h) * lines.ld + m, lines.ld);
      }
    }
  }
}

}  // namespace

void grad_stats_avx2(const GradSource& s, const GradStats& stats, int64_t chunk_begin, int64_t chunk_end) {
  with_type(s.type, [&]<typename T>() { grad_stats_of<T>(s, stats, chunk_begin, chunk_end); });
}

void split_rows_avx2(const GradSource& s, const LimbLines& lines, int64_t row_begin, int64_t row_end) {
  with_type(s.type, [&]<typename T>() { split_rows_wide<T>(s, lines, row_begin, row_end); });
}

void split_columns_avx2(const GradSource& s, const LimbLines& lines, int64_t block_begin, int64_t block_end) {
  with_type(s.type, [&]<typename T>() { split_columns_wide<T>(s, lines, block_begin, block_end); });
}

}  // namespace torchqat::cpu
