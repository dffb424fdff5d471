// Products of u8 codes and s8 weights on AVX2, exact and at the rate of bytes: x * w = (x - 128) * w + 128 * w, and (x - 128) * w is
// |x - 128| times the weight with the sign of x - 128, of which vpmaddubsw adds two in 16 bits. That fits where no weight is -128;
// where one is, the tiles widen to 16 bits instead. Included by ISA files.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/kernels/panels.h"
#include "cpu/kernels/unrolled.h"

namespace torchqat::cpu {
namespace {

// Weights of 16 columns are looked at once for all rows: with fewer rows it does not pay, nor do codes of fewer bytes.
constexpr int64_t kSignedLeastRows = 8, kSignedLeastSteps = 16;

// Adds 128 times the sums of 16 columns over `steps` groups of four weights. False where a weight is -128.
inline bool add_shifted_sums(const uint8_t* b, int64_t steps, __m256i (&sums)[2]) {
  const __m256i one = _mm256_set1_epi8(1), up = _mm256_set1_epi16(128);
  __m256i least = _mm256_setzero_si256();
  for (int64_t s = 0; s < steps; ++s, b += 4 * kPanelColumns) {
    for (int h = 0; h < 2; ++h) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 32 * h));
      least = _mm256_min_epi8(least, w);
      sums[h] = _mm256_add_epi32(sums[h], _mm256_madd_epi16(_mm256_maddubs_epi16(one, w), up));
    }
  }
  return _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, _mm256_set1_epi8(-128))) == 0;
}

constexpr int64_t kSignedRows = 4, kSignedBytes = 1024;
// x - 128 of some rows, and its magnitude.
struct SignedCodes {
  alignas(32) uint8_t value[kSignedRows][kSignedBytes], magnitude[kSignedRows][kSignedBytes];
};

// Reads up to 31 bytes beyond.
inline void sign_codes(const uint8_t* x, int64_t bytes, uint8_t* value, uint8_t* magnitude) {
  for (int64_t i = 0; i < bytes; i += 32) {
    const __m256i v = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)), _mm256_set1_epi8(-128));
    _mm256_store_si256(reinterpret_cast<__m256i*>(value + i), v);
    _mm256_store_si256(reinterpret_cast<__m256i*>(magnitude + i), _mm256_abs_epi8(v));
  }
}

// Adds to sums [rows][16], kPanelColumns apart.
template <int rows>
inline void signed_tile(const SignedCodes& x, const uint8_t* b, int64_t steps, int32_t* sums) {
  const auto at = [&](auto i) __attribute__((always_inline)) { return reinterpret_cast<__m256i*>(sums + i / 2 * kPanelColumns + 8 * (i % 2)); };
  const auto word = [](const uint8_t* p) __attribute__((always_inline)) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  };
  const __m256i one = _mm256_set1_epi16(1);
  __m256i sum[2 * rows];
  unrolled<2 * rows>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm256_loadu_si256(at(i)); });
  const auto step = [&](int64_t s) __attribute__((always_inline)) {
    const auto* line = reinterpret_cast<const __m256i*>(b + 4 * kPanelColumns * s);
    const __m256i w[2] = {_mm256_loadu_si256(line), _mm256_loadu_si256(line + 1)};
    unrolled<rows>([&](auto r) __attribute__((always_inline)) {
      const __m256i value = word(x.value[r] + 4 * s), magnitude = word(x.magnitude[r] + 4 * s);
      unrolled<2>([&](auto h) __attribute__((always_inline)) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w[h], value));
        sum[2 * r + h] = _mm256_add_epi32(sum[2 * r + h], _mm256_madd_epi16(pairs, one));
      });
    });
  };
  int64_t s = 0;
  for (; s + 2 <= steps; s += 2) {
    step(s);
    step(s + 1);
  }
  if (s < steps) step(s);
  unrolled<2 * rows>([&](auto i) __attribute__((always_inline)) { _mm256_storeu_si256(at(i), sum[i]); });
}

// Adds to up to kSignedRows rows of sums the products of `steps` groups of four codes with those sixteens of a panel's columns whose bit
// is set in `strips`. row(r): codes of row r.
template <typename Row>
inline void add_signed_products(Row row, int64_t rows, const uint8_t* panel, int64_t steps, uint32_t strips, int32_t* sums) {
  SignedCodes x;
  for (int64_t s = 0; s < steps; s += kSignedBytes / 4) {
    const int64_t here = std::min(steps - s, kSignedBytes / 4);
    for (int64_t r = 0; r < rows; ++r) sign_codes(row(r) + 4 * s, 4 * here, x.value[r], x.magnitude[r]);
    for (int64_t j = 0; j < kPanelColumns; j += 16) {
      if ((strips >> (j / 16) & 1) == 0) continue;
      const uint8_t* b = panel + 4 * (s * kPanelColumns + j);
      switch (rows) {
        case 1: signed_tile<1>(x, b, here, sums + j); break;
        case 2: signed_tile<2>(x, b, here, sums + j); break;
        case 3: signed_tile<3>(x, b, here, sums + j); break;
        default: signed_tile<4>(x, b, here, sums + j); break;
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
