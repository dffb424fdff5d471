// Eight lanes: AVX2 with FMA. Partial loads and stores touch only the first n floats.
#pragma once
#include <immintrin.h>

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

struct Vec {
  static constexpr int size = 8;
  using Scalar = float;
  using Mask = __m256;
  __m256 v;
  Vec() = default;
  TORCHQAT_INLINE Vec(float x) : v(_mm256_set1_ps(x)) {}
  TORCHQAT_INLINE Vec(__m256 x) : v(x) {}
  static TORCHQAT_INLINE __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static TORCHQAT_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static TORCHQAT_INLINE Vec load(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static TORCHQAT_INLINE Vec load(const cpu::Bf16* p) {
    const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
  }
  static TORCHQAT_INLINE Vec load(const cpu::Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static TORCHQAT_INLINE Vec load(const uint8_t* p) { return load_u8(p); }
  static TORCHQAT_INLINE Vec load(const int8_t* p) { return load_s8(p); }
  static TORCHQAT_INLINE Vec load(const int16_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static TORCHQAT_INLINE Vec load(const int32_t* p) { return load_s32(p); }
  static TORCHQAT_INLINE Mask from_bits(uint32_t bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i b = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(b, lane));
  }
  static TORCHQAT_INLINE Vec load_u8(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static TORCHQAT_INLINE Vec load_s8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static TORCHQAT_INLINE Vec load_s32(const int32_t* p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // acc - factor * sum in wrapping int32, then converted.
  static TORCHQAT_INLINE Vec load_s32_minus(const int32_t* acc, const int32_t* sum, int32_t factor) {
    const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sum));
    const __m256i product = _mm256_mullo_epi32(sums, _mm256_set1_epi32(factor));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc)), product));
  }
  // acc - what in wrapping int32, then converted.
  static TORCHQAT_INLINE Vec load_s32_minus(const int32_t* acc, int32_t what) {
    const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, _mm256_set1_epi32(what)));
  }
  TORCHQAT_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  TORCHQAT_INLINE void store(float* p, int n) const { _mm256_maskstore_ps(p, first(n), v); }
  // Lanes must hold integers that fit the destination.
  TORCHQAT_INLINE __m128i words() const {
    const __m256i i = _mm256_cvttps_epi32(v);
    return _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  }
  TORCHQAT_INLINE void store_u8(uint8_t* p) const {
    const __m128i w = words();
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(w, w));
  }
  TORCHQAT_INLINE void store_s8(int8_t* p) const {
    const __m128i w = words();
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(w, w));
  }
  TORCHQAT_INLINE void store_s32(int32_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvttps_epi32(v));
  }
  TORCHQAT_INLINE void store(uint8_t* p) const { store_u8(p); }
  TORCHQAT_INLINE void store(int8_t* p) const { store_s8(p); }
  TORCHQAT_INLINE void store(int16_t* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words()); }
  TORCHQAT_INLINE void store(int32_t* p) const { store_s32(p); }
  // Rounded to nearest even; NaN stays NaN.
  TORCHQAT_INLINE __m128i bf16() const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    r = _mm256_srli_epi32(r, 16);
    r = _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc0), _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
  }
  TORCHQAT_INLINE __m128i half() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  TORCHQAT_INLINE void store(cpu::Bf16* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bf16()); }
  TORCHQAT_INLINE void store(cpu::Half* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half()); }
  // Past the cache; the address is aligned to the vector.
  TORCHQAT_INLINE void stream(float* p) const { _mm256_stream_ps(p, v); }
  TORCHQAT_INLINE void stream(cpu::Bf16* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), bf16()); }
  TORCHQAT_INLINE void stream(cpu::Half* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), half()); }
};

TORCHQAT_INLINE Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
TORCHQAT_INLINE Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
TORCHQAT_INLINE Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
TORCHQAT_INLINE Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.v, b.v); }
TORCHQAT_INLINE Vec round_even(Vec a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
TORCHQAT_INLINE Vec lane_max(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
TORCHQAT_INLINE Vec lane_min(Vec a, Vec b) { return _mm256_min_ps(a.v, b.v); }
TORCHQAT_INLINE Vec lane_abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
TORCHQAT_INLINE Vec lane_fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
TORCHQAT_INLINE __m256 in_range(Vec x, Vec low, Vec high) {
  return _mm256_and_ps(_mm256_cmp_ps(low.v, x.v, _CMP_LE_OQ), _mm256_cmp_ps(x.v, high.v, _CMP_LE_OQ));
}
TORCHQAT_INLINE __m256 is_nan(Vec x) { return _mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q); }
TORCHQAT_INLINE Vec select(__m256 m, Vec a, Vec b) { return _mm256_blendv_ps(b.v, a.v, m); }
// The larger of numbers that are not negative, as integers: a NaN is larger than all.
TORCHQAT_INLINE Vec lane_max_bits(Vec a, Vec b) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a.v), _mm256_castps_si256(b.v)));
}
TORCHQAT_INLINE float reduce_min(Vec a) {
  __m128 r = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  r = _mm_min_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_min_ss(r, _mm_movehdup_ps(r)));
}
TORCHQAT_INLINE float reduce_max(Vec a) {
  __m128 r = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  r = _mm_max_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}
// Bit i is lane i.
TORCHQAT_INLINE uint32_t mask_bits(__m256 m) { return static_cast<uint32_t>(_mm256_movemask_ps(m)); }

}  // namespace torchqat::numerics
