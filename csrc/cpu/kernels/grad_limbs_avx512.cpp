// Statistics and limbs of a gradient: the avx512 path.
#include "cpu/kernels/grad_limbs_generic.h"
#include "cpu/kernels/transpose16_avx512.h"

namespace torchqat::cpu {
namespace {

template <typename T>
TORCHQAT_INLINE __m512i limbs_of(const T* g, Vec factor, Vec inverse) {
  return _mm512_cvttps_epi32(numerics::limb_value(Vec::load(g) * factor, inverse).v);
}
TORCHQAT_INLINE __m512i high_of(__m512i value) {
  return _mm512_srai_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(128)), 8);
}

// The low byte of a value is its low limb.
template <typename T>
void split_rows_wide(const GradSource& s, const LimbLines& lines, int64_t row_begin, int64_t row_end) {
  if (s.n > kSegment) return split_rows_of<T>(s, lines, row_begin, row_end);
  const int64_t whole = s.n / 16 * 16, written = (s.n + 15) / 16 * 16;
  alignas(64) float last_factors[16] = {};
  for (int64_t j = whole; j < s.n; ++j) last_factors[j - whole] = s.column_factor[j * s.column_stride];
  const Vec shared(s.n > 0 ? s.column_factor[0] : 0.0f);
  for (int64_t i = row_begin; i < row_end; ++i) {
    const T* row = static_cast<const T*>(s.grad) + i * s.n;
    uint8_t *high = lines.high + i * lines.ld, *low = lines.low + i * lines.ld;
    const Vec inverse(lines.inverse[i]);
    __m512i sum = _mm512_setzero_si512(), high_sum = _mm512_setzero_si512();
    for_columns<16>(row, 0, s.n, [&](const T* g, int64_t j) __attribute__((always_inline)) {
      const Vec factor = j == whole ? Vec::load(last_factors) : s.column_stride == 1 ? Vec::load(s.column_factor + j) : shared;
      const __m512i value = limbs_of(g, factor, inverse), upper = high_of(value);
      sum = _mm512_add_epi32(sum, value);
      high_sum = _mm512_add_epi32(high_sum, upper);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(low + j), _mm512_cvtepi32_epi8(value));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(high + j), _mm512_cvtepi32_epi8(upper));
    });
    std::memset(high + written, 0, static_cast<size_t>(lines.ld - written));
    std::memset(low + written, 0, static_cast<size_t>(lines.ld - written));
    const int32_t all = _mm512_reduce_add_epi32(sum), upper = _mm512_reduce_add_epi32(high_sum);
    lines.sums[i] = lines.sums[s.m + i] = 0;
    add_wrapping(lines.sums[i], upper, lines.weight);
    add_wrapping(lines.sums[s.m + i], static_cast<int32_t>(static_cast<uint32_t>(all) - 256u * static_cast<uint32_t>(upper)),
                 lines.weight);
  }
}

// Bytes of four vectors interleaved: lane l holds byte 0 of a, b, c, d's lane l.
TORCHQAT_INLINE __m512i bytes4(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i low = _mm512_set1_epi32(0xff);
  const __m512i ab = _mm512_mask_blend_epi8(0x2222222222222222ull, _mm512_and_si512(a, low), _mm512_slli_epi32(b, 8));
  const __m512i cd = _mm512_mask_blend_epi8(0x8888888888888888ull, _mm512_slli_epi32(c, 16), _mm512_slli_epi32(d, 24));
  return _mm512_mask_blend_epi16(0xaaaaaaaau, ab, cd);
}

// Sixteen columns x 64 rows at a time: four rows' bytes together, then a transposition of those groups.
template <typename T>
void split_columns_wide(const GradSource& s, const LimbLines& lines, int64_t block_begin, int64_t block_end) {
  const int64_t first = block_begin * 64, end = std::min(s.n, block_end * 64);
  for (int64_t segment = 0; segment < 2 * segment_count(s.m); ++segment) {
    std::fill(lines.sums + segment * s.n + first, lines.sums + segment * s.n + end, 0);
  }
  alignas(64) static const T zeros[16] = {};
  for (int64_t m = 0; m < lines.ld; m += 64) {
    alignas(64) int32_t weights[16];
    alignas(64) float factors[64];
    for (int64_t i = 0; i < 64; ++i) {
      const bool inside = m + i < s.m;
      const int32_t weight = !inside ? 0 : lines.weights != nullptr ? lines.weights[m + i] : lines.weight;
      reinterpret_cast<uint8_t*>(weights)[i] = static_cast<uint8_t>(weight);
      factors[i] = inside && s.row_factor != nullptr ? s.row_factor[m + i] : 1.0f;
    }
    for (int64_t c = first; c < end; c += 16) {
      // The last columns are read through a padded copy.
      const int64_t count = std::min<int64_t>(16, end - c), stride = count == 16 ? s.n : 16;
      const __mmask16 inside = static_cast<__mmask16>((1u << count) - 1);
      const T* block = static_cast<const T*>(s.grad) + m * s.n + c;
      alignas(64) T rest[64 * 16];
      if (count < 16) {
        std::memset(rest, 0, sizeof rest);
        for (int64_t i = 0; i < std::min<int64_t>(64, s.m - m); ++i) {
          std::memcpy(rest + 16 * i, block + i * s.n, static_cast<size_t>(count) * sizeof(T));
        }
        block = rest;
      }
      const Vec inverse(_mm512_maskz_loadu_ps(inside, lines.inverse + c));
      int32_t* sums = lines.sums + m / kSegment * 2 * s.n + c;
      __m512i low[16], high[16];
      __m512i low_sum = _mm512_maskz_loadu_epi32(inside, sums + s.n), high_sum = _mm512_maskz_loadu_epi32(inside, sums);
      const int filled = static_cast<int>(std::min<int64_t>(16, (s.m - m + 3) / 4));
      for (int q = filled; q < 16; ++q) low[q] = high[q] = _mm512_setzero_si512();
      for (int q = 0; q < filled; ++q) {
        __m512i value[4];
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
          const int64_t i = 4 * q + t;
          const T* g = m + i < s.m ? block + i * stride : zeros;
          value[t] = limbs_of(g, Vec(factors[4 * q + t]), inverse);
        }
        low[q] = bytes4(value[0], value[1], value[2], value[3]);
        high[q] = bytes4(high_of(value[0]), high_of(value[1]), high_of(value[2]), high_of(value[3]));
        const __m512i weight = _mm512_set1_epi32(weights[q]);
        low_sum = _mm512_dpbusd_epi32(low_sum, weight, low[q]);
        high_sum = _mm512_dpbusd_epi32(high_sum, weight, high[q]);
      }
      _mm512_mask_storeu_epi32(sums + s.n, inside, low_sum);
      _mm512_mask_storeu_epi32(sums, inside, high_sum);
      transpose16(low, [&](int l, __m512i line) __attribute__((always_inline)) {
        if (l < count) _mm512_storeu_si512(lines.low + (c + l) * lines.ld + m, line);
      });
      transpose16(high, [&](int l, __m512i line) __attribute__((always_inline)) {
        if (l < count) _mm512_storeu_si512(lines.high + (c + l) * lines.ld + m, line);
      });
    }
  }
}

}  // namespace

void grad_stats_avx512(const GradSource& s, const GradStats& stats, int64_t chunk_begin, int64_t chunk_end) {
  with_type(s.type, [&]<typename T>() { grad_stats_of<T>(s, stats, chunk_begin, chunk_end); });
}

void split_rows_avx512(const GradSource& s, const LimbLines& lines, int64_t row_begin, int64_t row_end) {
  with_type(s.type, [&]<typename T>() { split_rows_wide<T>(s, lines, row_begin, row_end); });
}

void split_columns_avx512(const GradSource& s, const LimbLines& lines, int64_t block_begin, int64_t block_end) {
  with_type(s.type, [&]<typename T>() { split_columns_wide<T>(s, lines, block_begin, block_end); });
}

}  // namespace torchqat::cpu
