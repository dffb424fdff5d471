// The 16 x 16 transposition of 4-byte groups in AVX-512 registers.
#pragma once
#include <immintrin.h>

#include "numerics/config.h"

namespace torchqat::cpu {
namespace {

// r[i] lane j becomes emit(j, line) with line's lane i = r[i] lane j.
template <typename Emit>
TORCHQAT_INLINE void transpose16(__m512i (&r)[16], Emit emit) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4 g + c], quarter q: rows 4 g ... 4 g + 3 of line 4 q + c.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x44), b = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xee), e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xee);
    emit(c, _mm512_shuffle_i32x4(a, b, 0x88));
    emit(4 + c, _mm512_shuffle_i32x4(a, b, 0xdd));
    emit(8 + c, _mm512_shuffle_i32x4(d, e, 0x88));
    emit(12 + c, _mm512_shuffle_i32x4(d, e, 0xdd));
  }
}

}  // namespace
}  // namespace torchqat::cpu
