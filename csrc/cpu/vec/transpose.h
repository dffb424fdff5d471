// Transposed copies of float and byte blocks, for layouts with channels first.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "numerics/config.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int transpose_block = 16;
// 16 rows of 16 floats, `from` apart, to 16 rows `to` apart.
TORCHQAT_INLINE void transpose_floats(const float* source, int64_t from, float* target, int64_t to) {
  __m512 r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(source + i * from);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto lo = [&](int a, int b) { return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[a]), _mm512_castps_pd(t[b]))); };
    const auto hi = [&](int a, int b) { return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[a]), _mm512_castps_pd(t[b]))); };
    r[4 * i] = lo(4 * i, 4 * i + 2);
    r[4 * i + 1] = hi(4 * i, 4 * i + 2);
    r[4 * i + 2] = lo(4 * i + 1, 4 * i + 3);
    r[4 * i + 3] = hi(4 * i + 1, 4 * i + 3);
  }
  // r[4 * i + j] holds, in lane l, column 4 * l + j of rows 4 * i .. 4 * i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88), d = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
    _mm512_storeu_ps(target + j * to, _mm512_shuffle_f32x4(a, c, 0x88));
    _mm512_storeu_ps(target + (4 + j) * to, _mm512_shuffle_f32x4(b, d, 0x88));
    _mm512_storeu_ps(target + (8 + j) * to, _mm512_shuffle_f32x4(a, c, 0xdd));
    _mm512_storeu_ps(target + (12 + j) * to, _mm512_shuffle_f32x4(b, d, 0xdd));
  }
}
#elif defined(__SSE2__)
constexpr int transpose_block = 4;
TORCHQAT_INLINE void transpose_floats(const float* source, int64_t from, float* target, int64_t to) {
  __m128 a = _mm_loadu_ps(source), b = _mm_loadu_ps(source + from);
  __m128 c = _mm_loadu_ps(source + 2 * from), d = _mm_loadu_ps(source + 3 * from);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(target, a);
  _mm_storeu_ps(target + to, b);
  _mm_storeu_ps(target + 2 * to, c);
  _mm_storeu_ps(target + 3 * to, d);
}
#else
constexpr int transpose_block = 1;
TORCHQAT_INLINE void transpose_floats(const float* source, int64_t, float* target, int64_t) { *target = *source; }
#endif

// target[c * to + r] = source[r * from + c]
static inline void transpose_store(const float* source, int64_t from, int64_t rows, int64_t columns, float* target, int64_t to) {
  constexpr int64_t step = transpose_block;
  const int64_t full_rows = rows / step * step, full_columns = columns / step * step;
  for (int64_t c = 0; c < full_columns; c += step) {
    for (int64_t r = 0; r < full_rows; r += step) transpose_floats(source + r * from + c, from, target + c * to + r, to);
  }
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = c < full_columns ? full_rows : 0; r < rows; ++r) target[c * to + r] = source[r * from + c];
  }
}

// 16 rows of 16 bytes, `from` apart, transposed into a contiguous [16][16].
TORCHQAT_INLINE void transpose_bytes(const uint8_t* source, int64_t from, uint8_t* target) {
#if defined(__AVX512BW__)
  // Row 4 i + r in lane i of vector r: interleaving makes it byte r of the double words, of column 4 j + k dword k of vector j.
  __m512i v[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const auto row = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + (4 * i + r) * from)); };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(row(0)), row(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(row(2)), row(3), 1);
    v[r] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  const __m512i a = _mm512_unpacklo_epi8(v[0], v[1]), b = _mm512_unpackhi_epi8(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi8(v[2], v[3]), d = _mm512_unpackhi_epi8(v[2], v[3]);
  // Dword k of lane i to dword i of lane k.
  const __m512i index = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(target, _mm512_permutexvar_epi32(index, _mm512_unpacklo_epi16(a, c)));
  _mm512_storeu_si512(target + 64, _mm512_permutexvar_epi32(index, _mm512_unpackhi_epi16(a, c)));
  _mm512_storeu_si512(target + 128, _mm512_permutexvar_epi32(index, _mm512_unpacklo_epi16(b, d)));
  _mm512_storeu_si512(target + 192, _mm512_permutexvar_epi32(index, _mm512_unpackhi_epi16(b, d)));
#elif defined(__SSE2__)
  __m128i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i * from));
  // Four perfect shuffles of the row index with the column index.
  __m128i *in = r, *out = t;
#pragma GCC unroll 4
  for (int pass = 0; pass < 4; ++pass) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      out[2 * i] = _mm_unpacklo_epi8(in[i], in[i + 8]);
      out[2 * i + 1] = _mm_unpackhi_epi8(in[i], in[i + 8]);
    }
    __m128i* swap = in;
    in = out;
    out = swap;
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(target + 16 * i), in[i]);
#else
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) target[16 * j + i] = source[i * from + j];
  }
#endif
}

}  // namespace torchqat::numerics
