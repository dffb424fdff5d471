// Codes by the fixed point of Shortcut on AVX2, 32 at a time. Included by conv_codes_generic.h.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "cpu/kernels/conv_codes_generic.h"

namespace torchqat::cpu::conv {
namespace {

struct CodePacker {
  static constexpr int64_t width = 32;
  // Half the window of values.
  static constexpr int kValueMargin = ValueConstants::kMargin;
  __m256 ratio, shift, cap;
  __m256i lowest, highest, sign;
  const CodeGrid& grid;
  int offset;

  explicit CodePacker(const CodeGrid& g) : CodePacker(g, ValueConstants(g)) {}
  CodePacker(const CodeGrid& g, const ValueConstants& c)
      : ratio(_mm256_set1_ps(c.ratio)), shift(_mm256_set1_ps(c.shift)), cap(_mm256_set1_ps(c.cap)),
        lowest(_mm256_set1_epi8(static_cast<char>(c.lowest))), highest(_mm256_set1_epi8(static_cast<char>(c.highest))),
        sign(_mm256_set1_epi8(static_cast<char>(c.offset))), grid(g), offset(c.offset) {}

  // The whole parts of fixed points, clamped, in order.
  TORCHQAT_INLINE __m256i bytes_of(const __m256i fixed[4]) const {
    const auto pair = [](__m256i even, __m256i odd) __attribute__((always_inline)) {
      return _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
    };
    const __m256i packed = _mm256_packus_epi16(pair(fixed[0], fixed[1]), pair(fixed[2], fixed[3]));
    const __m256i clamped = _mm256_min_epu8(highest, _mm256_max_epu8(lowest, packed));
    // Within its 128-bit lane, byte i of vector j lies at 8 * (j / 2) + 2 * i + j % 2.
    const __m256i within = _mm256_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12,
                                            14, 9, 11, 13, 15);
    const __m256i fours = _mm256_shuffle_epi8(_mm256_xor_si256(sign, clamped), within);
    return _mm256_permutevar8x32_epi32(fours, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }

  // Slow paths take vectors by value: pointers would send every caller's to the stack.
  __attribute__((noinline)) __m256i exactly(__m256 y0, __m256 y1, __m256 y2, __m256 y3) const {
    const __m256 y[4] = {y0, y1, y2, y3};
    __m256i fixed[4];
    for (int j = 0; j < 4; ++j) {
      const __m256i code = _mm256_cvttps_epi32(grid.exact(Vec(y[j])).v);
      fixed[j] = _mm256_slli_epi32(_mm256_add_epi32(code, _mm256_set1_epi32(offset)), 16);
    }
    return bytes_of(fixed);
  }

  static TORCHQAT_INLINE bool near_tie(const __m256i fixed[4], __m256i window) {
    // The upper halves take part in the minimum and are left out of the test.
    const __m256i least = _mm256_min_epu16(_mm256_min_epu16(fixed[0], fixed[1]), _mm256_min_epu16(fixed[2], fixed[3]));
    return (_mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_min_epu16(least, window), least)) & 0x33333333) != 0;
  }

  // Of any values. nan, if given, is set where there is one.
  TORCHQAT_INLINE __m256i codes_of(const __m256 y[4], uint32_t* nan = nullptr) const {
    __m256i fixed[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      // A NaN stays (min returns its second operand then). It and what lies far below become 0x80000000, a near-tie.
      fixed[j] = _mm256_cvtps_epi32(_mm256_min_ps(cap, _mm256_fmadd_ps(y[j], ratio, shift)));
    }
    if (near_tie(fixed, _mm256_set1_epi16(2 * kValueMargin))) [[unlikely]] {
      if (nan != nullptr) {
        for (int j = 0; j < 4; ++j) *nan |= numerics::mask_bits(numerics::is_nan(Vec(y[j])));
      }
      return exactly(y[0], y[1], y[2], y[3]);
    }
    return bytes_of(fixed);
  }

  TORCHQAT_INLINE void store_codes_of(const float* values, uint8_t* to, uint32_t* nan) const {
    const __m256 y[4] = {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8), _mm256_loadu_ps(values + 16), _mm256_loadu_ps(values + 24)};
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), codes_of(y, nan));
  }

  // What the pixels of a panel share, 32 of each in the order of their sums. scale and bias are the formula's.
  struct Constants {
    const float *ratio, *shift, *scale, *bias;
    __m256i window;
  };

  __attribute__((noinline)) __m256i exactly(__m256i s0, __m256i s1, __m256i s2, __m256i s3, const Constants& c) const {
    const auto value = [&](__m256i sum, int j) {
      return numerics::scaled_sum(Vec(_mm256_cvtepi32_ps(sum)), Vec::load(c.scale + 8 * j), Vec::load(c.bias + 8 * j)).v;
    };
    return exactly(value(s0, 0), value(s1, 1), value(s2, 2), value(s3, 3));
  }

  // Of sums, by a shortcut whose window is not below 0.
  TORCHQAT_INLINE __m256i codes_of(const __m256i sums[4], const Constants& c) const {
    __m256i fixed[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256 sum = _mm256_cvtepi32_ps(sums[j]);
      fixed[j] = _mm256_cvtps_epi32(_mm256_fmadd_ps(sum, _mm256_loadu_ps(c.ratio + 8 * j), _mm256_loadu_ps(c.shift + 8 * j)));
    }
    if (near_tie(fixed, c.window)) [[unlikely]] return exactly(sums[0], sums[1], sums[2], sums[3], c);
    return bytes_of(fixed);
  }
};

// The first n of sixteen bytes.
TORCHQAT_INLINE void store_some(__m128i bytes, int64_t n, uint8_t* to) {
  if (n >= 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    return;
  }
  if ((n & 8) != 0) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), bytes);
    bytes = _mm_unpackhi_epi64(bytes, bytes);
    to += 8;
  }
  auto left = static_cast<uint64_t>(_mm_cvtsi128_si64(bytes));
  if ((n & 4) != 0) {
    std::memcpy(to, &left, 4);
    left >>= 32;
    to += 4;
  }
  for (int64_t i = 0; i < (n & 3); ++i, left >>= 8) to[i] = static_cast<uint8_t>(left);
}

TORCHQAT_INLINE void store_some(__m256i bytes, int64_t n, uint8_t* to) {
  if (n >= 32) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
    return;
  }
  store_some(_mm256_castsi256_si128(bytes), n, to);
  if (n > 16) store_some(_mm256_extracti128_si256(bytes, 1), n - 16, to + 16);
}

// Codes of a pixel's channels [0, columns), columns at most 64. value(i): y of channels [i, i + Vec::size).
template <typename Value>
TORCHQAT_INLINE void store_codes(const CodeGrid&, const CodePacker& pack, int64_t columns, Value value, uint8_t* to) {
  for (int64_t c = 0; c < columns; c += CodePacker::width) {
    __m256 y[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) y[j] = c + 8 * j < columns ? value(c + 8 * j).v : _mm256_setzero_ps();
    store_some(pack.codes_of(y), columns - c, to + c);
  }
}

// Codes of `columns` (at most 32 / Pixels) channels of `count` pixels, `apart` bytes apart, from sums kPanel apart, Pixels of them at a
// time. Constants begin at the first channel.
template <int Pixels>
inline void store_pixels(const CodePacker& pack, CodePacker::Constants c, const int32_t* sums, int64_t columns, int64_t count, int64_t apart,
                         uint8_t* to) {
  constexpr int vectors = 4 / Pixels, width = 32 / Pixels;
  alignas(32) float repeated[4][32];
  if constexpr (Pixels > 1) {
    const float* from[4] = {c.ratio, c.shift, c.scale, c.bias};
    for (int k = 0; k < 4; ++k) {
      for (int i = 0; i < 32; ++i) repeated[k][i] = from[k][i % width];
    }
  }
  const CodePacker::Constants own = Pixels > 1 ? CodePacker::Constants{repeated[0], repeated[1], repeated[2], repeated[3], c.window} : c;
  int64_t r = 0;
  for (; r + Pixels <= count; r += Pixels, sums += Pixels * kPanel, to += Pixels * apart) {
    __m256i s[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      s[j] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + j / vectors * kPanel + 8 * (j % vectors)));
    }
    const __m256i codes = pack.codes_of(s, own);
    if constexpr (Pixels == 1) {
      store_some(codes, columns, to);
    } else if (apart == width) {
      store_some(codes, 32, to);
    } else {
      store_some(_mm256_castsi256_si128(codes), columns, to);
      store_some(_mm256_extracti128_si256(codes, 1), columns, to + apart);
    }
  }
  if constexpr (Pixels > 1) {
    if (r < count) store_pixels<1>(pack, c, sums, columns, count - r, apart, to);
  }
}

// False where there is no shortcut.
inline bool store_codes(const CodePacker& pack, const Shortcut& cut, const int32_t* sums, const float* scale, const float* bias,
                        int64_t columns, int64_t count, int64_t apart, uint8_t* to) {
  if (cut.window < 0) return false;
  const __m256i window = _mm256_set1_epi16(static_cast<short>(cut.window));
  for (int64_t c = 0; c < columns; c += 32) {
    const auto run = columns - c <= 16 ? &store_pixels<2> : &store_pixels<1>;
    run(pack, {cut.ratio + c, cut.shift + c, scale + c, bias + c, window}, sums + c, std::min<int64_t>(32, columns - c), count, apart, to + c);
  }
  return true;
}

}  // namespace
}  // namespace torchqat::cpu::conv
