// Four rows of bytes side by side, as products of four bytes at a time want them. Included by ISA files and others: nothing is shared.
#pragma once
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace torchqat::cpu {
namespace {

// to[4 * i + j] = rows[j][i] ^ flip, i < n.
template <uint8_t flip, typename From, typename To>
inline void interleave_rows(const From* const (&rows)[4], int64_t n, To* to) {
  static_assert(sizeof(From) == 1 && sizeof(To) == 1);
  int64_t i = 0;
#if defined(__SSE2__)
  const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
  const auto row = [&](int j) { return _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[j] + i)), flips); };
  for (; i + 16 <= n; i += 16) {
    const __m128i a = row(0), b = row(1), c = row(2), d = row(3);
    const __m128i ab0 = _mm_unpacklo_epi8(a, b), ab1 = _mm_unpackhi_epi8(a, b);
    const __m128i cd0 = _mm_unpacklo_epi8(c, d), cd1 = _mm_unpackhi_epi8(c, d);
    auto* out = reinterpret_cast<__m128i*>(to + 4 * i);
    _mm_storeu_si128(out, _mm_unpacklo_epi16(ab0, cd0));
    _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(ab0, cd0));
    _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(ab1, cd1));
    _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(ab1, cd1));
  }
#endif
  for (; i < n; ++i) {
    for (int j = 0; j < 4; ++j) to[4 * i + j] = static_cast<To>(static_cast<uint8_t>(rows[j][i]) ^ flip);
  }
}

}  // namespace
}  // namespace torchqat::cpu
