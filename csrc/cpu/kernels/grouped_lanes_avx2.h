// Integer lanes of the grouped kernels: eight columns, for AVX2 and AVX-VNNI. Products are exact: vpmaddubsw only where it cannot
// saturate.
#pragma once
#include <immintrin.h>

#if defined(__AVXVNNI__)
#include "cpu/kernels/dot_avxvnni.h"
#endif
#include "cpu/vec/vec.h"

namespace torchqat::cpu {
namespace {

struct Lanes {
  static constexpr int columns = 8, gemv_vectors = 2, tile_vectors = 2, tile_rows = 3, float_rows = 6, float_rows_decoded = 6;
  using Int = __m256i;
  using Bytes = __m256i;

  static TORCHQAT_INLINE Int zero() { return _mm256_setzero_si256(); }
  static TORCHQAT_INLINE Int broadcast(int32_t x) { return _mm256_set1_epi32(x); }
  static TORCHQAT_INLINE Bytes load_bytes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static TORCHQAT_INLINE void store_bytes(uint8_t* p, Bytes b) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b); }
  static TORCHQAT_INLINE void store(int32_t* p, Int x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static TORCHQAT_INLINE Int load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static TORCHQAT_INLINE Bytes broadcast_bytes(uint8_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
  template <int slot>
  static TORCHQAT_INLINE Bytes field(Bytes line, int j) {
    if constexpr (slot == 8) {
      return line;
    } else {
      return _mm256_and_si256(_mm256_srli_epi16(line, slot * j), _mm256_set1_epi8((1 << slot) - 1));
    }
  }
  static TORCHQAT_INLINE Bytes add_bytes(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
  static TORCHQAT_INLINE Bytes subtract_bytes(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }
  template <bool narrow>
  static TORCHQAT_INLINE void dot(Int& sum, Bytes u, Bytes s) {
#if defined(__AVXVNNI__)
    sum = cpu::dot<U8S8>(sum, u, s);
#else
    if constexpr (narrow) {
      const __m256i pairs = _mm256_maddubs_epi16(u, s);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    } else {
      const __m256i u_even = _mm256_and_si256(u, _mm256_set1_epi16(0xff)), u_odd = _mm256_srli_epi16(u, 8);
      const __m256i s_even = _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8), s_odd = _mm256_srai_epi16(s, 8);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(u_even, s_even));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(u_odd, s_odd));
    }
#endif
  }
  static TORCHQAT_INLINE Int subtract(Int a, Int b) { return _mm256_sub_epi32(a, b); }
  static TORCHQAT_INLINE numerics::Vec to_float(Int x) { return _mm256_cvtepi32_ps(x); }
  static TORCHQAT_INLINE Int split_sum(Int sum) {
    return _mm256_or_si256(_mm256_slli_epi32(_mm256_srai_epi32(sum, 7), 16), _mm256_and_si256(sum, _mm256_set1_epi32(127)));
  }
  static TORCHQAT_INLINE void subtract_product(Int& sum, Int weight_sum, Int z) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(weight_sum, z));
  }
  static TORCHQAT_INLINE numerics::Vec load_bf16(const uint16_t* p) {
    const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
  }
  static TORCHQAT_INLINE numerics::Vec load_half(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static TORCHQAT_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  // Into the second-level cache: what is asked for so early would push out of the first what is in use.
  static TORCHQAT_INLINE void prefetch_far(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

  template <int slot>
  struct Decoder {
    __m256i offset;
    explicit Decoder(int offset_) : offset(_mm256_set1_epi32(offset_)) {}
    TORCHQAT_INLINE numerics::Vec operator()(Bytes line, int shift) const {
      const __m256i u = _mm256_and_si256(_mm256_srli_epi32(line, shift), _mm256_set1_epi32((1 << slot) - 1));
      return _mm256_cvtepi32_ps(_mm256_sub_epi32(u, offset));
    }
  };
};

}  // namespace
}  // namespace torchqat::cpu
