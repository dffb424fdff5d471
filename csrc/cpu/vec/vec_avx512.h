// Sixteen lanes: AVX-512. Partial loads and stores touch only the first n floats.
#pragma once
#include <immintrin.h>

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

struct Vec {
  static constexpr int size = 16;
  using Scalar = float;
  using Mask = __mmask16;
  __m512 v;
  Vec() = default;
  TORCHQAT_INLINE Vec(float x) : v(_mm512_set1_ps(x)) {}
  TORCHQAT_INLINE Vec(__m512 x) : v(x) {}
  static TORCHQAT_INLINE __mmask16 first(int n) { return static_cast<__mmask16>(_bzhi_u32(0xffffu, static_cast<unsigned>(n))); }
  static TORCHQAT_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static TORCHQAT_INLINE Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static TORCHQAT_INLINE Vec load(const cpu::Bf16* p) {
    const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  }
  static TORCHQAT_INLINE Vec load(const cpu::Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static TORCHQAT_INLINE Vec load(const uint8_t* p) { return load_u8(p); }
  static TORCHQAT_INLINE Vec load(const int8_t* p) { return load_s8(p); }
  static TORCHQAT_INLINE Vec load(const int16_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  }
  static TORCHQAT_INLINE Vec load(const int32_t* p) { return load_s32(p); }
  static TORCHQAT_INLINE Mask from_bits(uint32_t bits) { return static_cast<Mask>(bits); }
  static TORCHQAT_INLINE Vec load_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static TORCHQAT_INLINE Vec load_s8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static TORCHQAT_INLINE Vec load_s32(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
  // acc - factor * sum in wrapping int32, then converted.
  static TORCHQAT_INLINE Vec load_s32_minus(const int32_t* acc, const int32_t* sum, int32_t factor) {
    const __m512i product = _mm512_mullo_epi32(_mm512_loadu_si512(sum), _mm512_set1_epi32(factor));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(acc), product));
  }
  // acc - what in wrapping int32, then converted.
  static TORCHQAT_INLINE Vec load_s32_minus(const int32_t* acc, int32_t what) {
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(acc), _mm512_set1_epi32(what)));
  }
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
  TORCHQAT_INLINE void store(uint8_t* p) const { store_u8(p); }
  TORCHQAT_INLINE void store(int8_t* p) const { store_s8(p); }
  TORCHQAT_INLINE void store(int16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_cvttps_epi32(v)));
  }
  TORCHQAT_INLINE void store(int32_t* p) const { store_s32(p); }
  // Rounded to nearest even; NaN stays NaN. (vcvtneps2bf16 is not used: it flushes subnormals.)
  TORCHQAT_INLINE __m256i bf16() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    r = _mm512_srli_epi32(r, 16);
    r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(r);
  }
  TORCHQAT_INLINE __m256i half() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  TORCHQAT_INLINE void store(cpu::Bf16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bf16()); }
  TORCHQAT_INLINE void store(cpu::Half* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half()); }
  // Past the cache; the address is aligned to the vector.
  TORCHQAT_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
  TORCHQAT_INLINE void stream(cpu::Bf16* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bf16()); }
  TORCHQAT_INLINE void stream(cpu::Half* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), half()); }
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
// The larger of numbers that are not negative, as integers: a NaN is larger than all.
TORCHQAT_INLINE Vec lane_max_bits(Vec a, Vec b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)));
}
TORCHQAT_INLINE float reduce_min(Vec a) { return _mm512_reduce_min_ps(a.v); }
TORCHQAT_INLINE float reduce_max(Vec a) { return _mm512_reduce_max_ps(a.v); }
// Bit i is lane i.
// Not a plain conversion: with sanitizers at -O1 gcc 12 reads more than the 16 bits of a mask register there.
TORCHQAT_INLINE uint32_t mask_bits(__mmask16 m) { return _cvtmask16_u32(m); }

}  // namespace torchqat::numerics
