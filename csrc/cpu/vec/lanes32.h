// 32-bit unsigned integers in as many lanes as Vec has, for counter-based random numbers (wrap-around arithmetic), and the
// strict comparison that goes with them.
#pragma once
#include "cpu/vec/vec.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

#if defined(__AVX512F__)
TORCHQAT_INLINE __mmask16 exceeds(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
struct Lanes32 {
  __m512i v;
  TORCHQAT_INLINE Lanes32(uint32_t x) : v(_mm512_set1_epi32(static_cast<int>(x))) {}
  TORCHQAT_INLINE Lanes32(__m512i x) : v(x) {}
  static TORCHQAT_INLINE Lanes32 from(uint32_t first) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), lane);
  }
  // Values below 2^24.
  TORCHQAT_INLINE Vec to_float(Vec) const { return _mm512_cvtepi32_ps(v); }
};
TORCHQAT_INLINE Lanes32 operator+(Lanes32 a, Lanes32 b) { return _mm512_add_epi32(a.v, b.v); }
TORCHQAT_INLINE Lanes32 operator*(Lanes32 a, Lanes32 b) { return _mm512_mullo_epi32(a.v, b.v); }
TORCHQAT_INLINE Lanes32 operator^(Lanes32 a, Lanes32 b) { return _mm512_xor_si512(a.v, b.v); }
TORCHQAT_INLINE Lanes32 operator>>(Lanes32 a, int n) { return _mm512_srl_epi32(a.v, _mm_cvtsi32_si128(n)); }
#elif defined(__AVX2__)
TORCHQAT_INLINE __m256 exceeds(Vec a, Vec b) { return _mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ); }
struct Lanes32 {
  __m256i v;
  TORCHQAT_INLINE Lanes32(uint32_t x) : v(_mm256_set1_epi32(static_cast<int>(x))) {}
  TORCHQAT_INLINE Lanes32(__m256i x) : v(x) {}
  static TORCHQAT_INLINE Lanes32 from(uint32_t first) {
    return _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  TORCHQAT_INLINE Vec to_float(Vec) const { return _mm256_cvtepi32_ps(v); }
};
TORCHQAT_INLINE Lanes32 operator+(Lanes32 a, Lanes32 b) { return _mm256_add_epi32(a.v, b.v); }
TORCHQAT_INLINE Lanes32 operator*(Lanes32 a, Lanes32 b) { return _mm256_mullo_epi32(a.v, b.v); }
TORCHQAT_INLINE Lanes32 operator^(Lanes32 a, Lanes32 b) { return _mm256_xor_si256(a.v, b.v); }
TORCHQAT_INLINE Lanes32 operator>>(Lanes32 a, int n) { return _mm256_srl_epi32(a.v, _mm_cvtsi32_si128(n)); }
#else
TORCHQAT_INLINE bool exceeds(Vec a, Vec b) { return a.v > b.v; }
struct Lanes32 {
  uint32_t v;
  TORCHQAT_INLINE Lanes32(uint32_t x) : v(x) {}
  static TORCHQAT_INLINE Lanes32 from(uint32_t first) { return first; }
  TORCHQAT_INLINE Vec to_float(Vec) const { return static_cast<float>(v); }
};
TORCHQAT_INLINE Lanes32 operator+(Lanes32 a, Lanes32 b) { return a.v + b.v; }
TORCHQAT_INLINE Lanes32 operator*(Lanes32 a, Lanes32 b) { return a.v * b.v; }
TORCHQAT_INLINE Lanes32 operator^(Lanes32 a, Lanes32 b) { return a.v ^ b.v; }
TORCHQAT_INLINE Lanes32 operator>>(Lanes32 a, int n) { return a.v >> n; }
#endif

// One lane, for Wide.
TORCHQAT_INLINE bool exceeds(Wide a, Wide b) { return a.v > b.v; }
struct Lane32 {
  uint32_t v;
  TORCHQAT_INLINE Lane32(uint32_t x) : v(x) {}
  static TORCHQAT_INLINE Lane32 from(uint32_t first) { return first; }
  TORCHQAT_INLINE Wide to_float(Wide) const { return static_cast<double>(v); }
};
TORCHQAT_INLINE Lane32 operator+(Lane32 a, Lane32 b) { return a.v + b.v; }
TORCHQAT_INLINE Lane32 operator*(Lane32 a, Lane32 b) { return a.v * b.v; }
TORCHQAT_INLINE Lane32 operator^(Lane32 a, Lane32 b) { return a.v ^ b.v; }
TORCHQAT_INLINE Lane32 operator>>(Lane32 a, int n) { return a.v >> n; }

// The integer lanes that go with V.
template <typename V>
struct IntegerLanes {
  using Type = Lanes32;
};
template <>
struct IntegerLanes<Wide> {
  using Type = Lane32;
};

}  // namespace torchqat::numerics
