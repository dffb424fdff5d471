// Sixteen lanes: AVX-512. Partial loads and stores touch only the first n floats.
#pragma once
#include <immintrin.h>

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

struct Vec {
  static constexpr int size = 16;
  using Mask = __mmask16;
  __m512 v;
  Vec() = default;
  TORCHQAT_INLINE Vec(float x) : v(_mm512_set1_ps(x)) {}
  TORCHQAT_INLINE Vec(__m512 x) : v(x) {}
  static TORCHQAT_INLINE __mmask16 first(int n) { return static_cast<__mmask16>(_bzhi_u32(0xffffu, static_cast<unsigned>(n))); }
  static TORCHQAT_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static TORCHQAT_INLINE Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static TORCHQAT_INLINE Vec load_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static TORCHQAT_INLINE Vec load_s8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static TORCHQAT_INLINE Vec load_s32(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
  TORCHQAT_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  TORCHQAT_INLINE void store(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  // Lanes must hold integers that fit the destination.
  TORCHQAT_INLINE void store_u8(uint8_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v)));
  }
  TORCHQAT_INLINE void store_s8(int8_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v)));
  }
  TORCHQAT_INLINE void store_s32(int32_t* p) const { _mm512_storeu_si512(p, _mm512_cvttps_epi32(v)); }
};

TORCHQAT_INLINE Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
TORCHQAT_INLINE Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
TORCHQAT_INLINE Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
TORCHQAT_INLINE Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.v, b.v); }
TORCHQAT_INLINE Vec round_even(Vec a) {
  return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
TORCHQAT_INLINE Vec lane_max(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }
TORCHQAT_INLINE Vec lane_min(Vec a, Vec b) { return _mm512_min_ps(a.v, b.v); }
TORCHQAT_INLINE Vec lane_abs(Vec a) { return _mm512_abs_ps(a.v); }
TORCHQAT_INLINE Vec lane_fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
TORCHQAT_INLINE __mmask16 in_range(Vec x, Vec low, Vec high) {
  return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(low.v, x.v, _CMP_LE_OQ), x.v, high.v, _CMP_LE_OQ);
}
TORCHQAT_INLINE __mmask16 is_nan(Vec x) { return _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q); }
TORCHQAT_INLINE Vec select(__mmask16 m, Vec a, Vec b) { return _mm512_mask_blend_ps(m, b.v, a.v); }
// Bit i is lane i.
TORCHQAT_INLINE uint32_t mask_bits(__mmask16 m) { return m; }

}  // namespace torchqat::numerics
