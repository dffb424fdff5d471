// Integer lanes of the grouped kernels: sixteen columns, on VNNI. The products are inline assembly: from the intrinsics
// gcc 12 spills the accumulators of a register tile.
#pragma once
#include <immintrin.h>

#include "cpu/vec/vec.h"

namespace torchqat::cpu {
namespace {

struct Lanes {
  static constexpr int columns = 16, gemv_vectors = 4, tile_vectors = 4, tile_rows = 6, float_rows = 5, float_rows_decoded = 10;
  using Int = __m512i;
  using Bytes = __m512i;

  static TORCHQAT_INLINE Int zero() { return _mm512_setzero_si512(); }
  static TORCHQAT_INLINE Int broadcast(int32_t x) { return _mm512_set1_epi32(x); }
  static TORCHQAT_INLINE Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static TORCHQAT_INLINE void store_bytes(uint8_t* p, Bytes b) { _mm512_storeu_si512(p, b); }
  static TORCHQAT_INLINE void store(int32_t* p, Int x) { _mm512_storeu_si512(p, x); }
  static TORCHQAT_INLINE Int load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static TORCHQAT_INLINE Bytes broadcast_bytes(uint8_t x) { return _mm512_set1_epi8(static_cast<char>(x)); }
  template <int slot>
  static TORCHQAT_INLINE Bytes field(Bytes line, int j) {
    if constexpr (slot == 8) {
      return line;
    } else {
      const __m512i shifted = j == 0 ? line : _mm512_srli_epi16(line, static_cast<unsigned>(slot * j));
      return _mm512_and_si512(shifted, _mm512_set1_epi8((1 << slot) - 1));
    }
  }
  static TORCHQAT_INLINE Bytes add_bytes(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
  static TORCHQAT_INLINE Bytes subtract_bytes(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }
  template <bool narrow>
  static TORCHQAT_INLINE void dot(Int& sum, Bytes u, Bytes s) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
  }
  static TORCHQAT_INLINE Int subtract(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static TORCHQAT_INLINE numerics::Vec to_float(Int x) { return _mm512_cvtepi32_ps(x); }
  static TORCHQAT_INLINE Int split_sum(Int sum) {
    return _mm512_or_si512(_mm512_slli_epi32(_mm512_srai_epi32(sum, 7), 16), _mm512_and_si512(sum, _mm512_set1_epi32(127)));
  }
  static TORCHQAT_INLINE void subtract_product(Int& sum, Int weight_sum, Int z) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(weight_sum), "v"(z));
  }
  static TORCHQAT_INLINE numerics::Vec load_bf16(const uint16_t* p) {
    const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  }
  static TORCHQAT_INLINE numerics::Vec load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static TORCHQAT_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  // Into the second-level cache: what is asked for so early would push out of the first what is in use.
  static TORCHQAT_INLINE void prefetch_far(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

  // Up to 4 bits by a table of 16 (vpermps looks at the lowest 4 bits only).
  template <int slot>
  struct Decoder {
    __m512 table;
    explicit Decoder(int offset) {
      alignas(64) float values[16];
      for (int i = 0; i < 16; ++i) values[i] = static_cast<float>((i & ((1 << slot) - 1)) - offset);
      table = _mm512_load_ps(values);
    }
    TORCHQAT_INLINE numerics::Vec operator()(Bytes line, int shift) const {
      return _mm512_permutexvar_ps(shift == 0 ? line : _mm512_srli_epi32(line, static_cast<unsigned>(shift)), table);
    }
  };
};

template <>
struct Lanes::Decoder<8> {
  __m512 offset;
  explicit Decoder(int offset_) : offset(_mm512_set1_ps(static_cast<float>(offset_))) {}
  TORCHQAT_INLINE numerics::Vec operator()(Bytes line, int shift) const {
    const __m512i u = _mm512_and_si512(_mm512_srli_epi32(line, static_cast<unsigned>(shift)), _mm512_set1_epi32(255));
    return _mm512_sub_ps(_mm512_cvtepi32_ps(u), offset);
  }
};

}  // namespace
}  // namespace torchqat::cpu
