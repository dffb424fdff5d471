// numerics/bits.h for the lanes of Vec and Wide, and the horizontal maximum by bit pattern.
#pragma once
#include "numerics/bits.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

#if defined(__AVX512F__)
TORCHQAT_INLINE Vec exponent_power(Vec x) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7f800000)));
}
TORCHQAT_INLINE Vec with_sign(Vec magnitude, Vec x) {
  const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(magnitude.v), _mm512_castps_si512(x.v), sign, 0xf8));
}
TORCHQAT_INLINE Vec power_of_two(Vec n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23));
}
TORCHQAT_INLINE Vec bits_max(Vec a, Vec b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)));
}
TORCHQAT_INLINE float reduce_bits_max(Vec a) { return bits_as<float>(_mm512_reduce_max_epi32(_mm512_castps_si512(a.v))); }
#elif defined(__AVX2__)
TORCHQAT_INLINE Vec exponent_power(Vec x) {
  return _mm256_and_ps(x.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000)));
}
TORCHQAT_INLINE Vec with_sign(Vec magnitude, Vec x) {
  return _mm256_or_ps(magnitude.v, _mm256_and_ps(x.v, _mm256_set1_ps(-0.0f)));
}
TORCHQAT_INLINE Vec power_of_two(Vec n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23));
}
TORCHQAT_INLINE Vec bits_max(Vec a, Vec b) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a.v), _mm256_castps_si256(b.v)));
}
TORCHQAT_INLINE float reduce_bits_max(Vec a) {
  const __m256i i = _mm256_castps_si256(a.v);
  __m128i r = _mm_max_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1));
  return bits_as<float>(_mm_cvtsi128_si32(r));
}
#else
TORCHQAT_INLINE Vec exponent_power(Vec x) { return exponent_power(x.v); }
TORCHQAT_INLINE Vec with_sign(Vec magnitude, Vec x) { return with_sign(magnitude.v, x.v); }
TORCHQAT_INLINE Vec power_of_two(Vec n) { return power_of_two(n.v); }
TORCHQAT_INLINE Vec bits_max(Vec a, Vec b) { return bits_max(a.v, b.v); }
TORCHQAT_INLINE float reduce_bits_max(Vec a) { return a.v; }
#endif

TORCHQAT_INLINE Wide exponent_power(Wide x) { return exponent_power(x.v); }
TORCHQAT_INLINE Wide with_sign(Wide magnitude, Wide x) { return with_sign(magnitude.v, x.v); }
TORCHQAT_INLINE Wide power_of_two(Wide n) { return power_of_two(n.v); }
TORCHQAT_INLINE Wide bits_max(Wide a, Wide b) { return bits_max(a.v, b.v); }
TORCHQAT_INLINE double reduce_bits_max(Wide a) { return a.v; }

}  // namespace torchqat::numerics
