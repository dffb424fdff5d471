// The 8 x 8 transposition of 4-byte groups in AVX2 registers.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "numerics/config.h"

namespace torchqat::cpu {
namespace {

// Line j, 32 bytes at to + j * apart, becomes lane j of v[0] ... v[7].
TORCHQAT_INLINE void store_transposed(const __m256i (&v)[8], void* to, int64_t apart) {
  __m256i pairs[8], fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pairs[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  // fours[4 * h + l]: double words l (and l + 4, in the upper lane) of vectors 4 * h .. 4 * h + 3.
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    fours[4 * h] = _mm256_unpacklo_epi64(pairs[4 * h], pairs[4 * h + 2]);
    fours[4 * h + 1] = _mm256_unpackhi_epi64(pairs[4 * h], pairs[4 * h + 2]);
    fours[4 * h + 2] = _mm256_unpacklo_epi64(pairs[4 * h + 1], pairs[4 * h + 3]);
    fours[4 * h + 3] = _mm256_unpackhi_epi64(pairs[4 * h + 1], pairs[4 * h + 3]);
  }
  auto* line = static_cast<uint8_t*>(to);
#pragma GCC unroll 4
  for (int l = 0; l < 4; ++l) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(line + l * apart), _mm256_permute2x128_si256(fours[l], fours[4 + l], 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(line + (l + 4) * apart), _mm256_permute2x128_si256(fours[l], fours[4 + l], 0x31));
  }
}

}  // namespace
}  // namespace torchqat::cpu
