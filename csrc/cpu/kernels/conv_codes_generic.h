// The epilogue of a convolution that gives codes, 64 output channels of a pixel at a time, with one test for near-ties for all:
//   code = clamp(rint(y / s) + z, low, high),  y = float32(sum) * scale + bias
// The quotient is a multiplication where that certainly rounds alike (numerics/quotient.h says when). Clamping before the
// rounding is the same, since the limits are integers. Included by ISA files.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/kernels/conv_int8.h"
#include "cpu/vec/vec.h"
#include "numerics/affine.h"
#include "numerics/quotient.h"
#include "numerics/scaled_sum.h"

namespace torchqat::cpu::conv {
namespace {

using numerics::Vec;

// After clamping a quotient is at most 255 in magnitude; quotient.h's margin for that.
constexpr float kTieLimit = 0.5f - 256.0f * 0x1p-21f;

// A grid ready for use. max(y, 0) has the code max(code(y), z), so relu only raises the lower limit.
struct CodeGrid {
  float scale, reciprocal, zero, low, high;  // limits of codes
  explicit CodeGrid(const OutputGrid& g)
      : scale(g.scale), reciprocal(numerics::quotient_reciprocal(g.scale)), zero(g.zero_point),
        low(g.relu ? std::max(g.quant_min, g.zero_point) : g.quant_min), high(g.quant_max) {}

  // By division: near-ties, and NaN, which becomes the zero point.
  TORCHQAT_INLINE Vec exact(Vec y) const {
    return numerics::storable_code(numerics::affine_code(y, Vec(scale), Vec(zero), Vec(low), Vec(high)), Vec(zero));
  }
};

// Codes of y[0, n) (n a multiple of Vec::size), stored as bytes.
inline void store_codes_exactly(const CodeGrid& g, const float* y, int64_t n, uint8_t* to) {
  for (int64_t i = 0; i < n; i += Vec::size) {
    // Two's complement below zero, so that one store serves both kinds of grid.
    int32_t wide[Vec::size];
    g.exact(Vec::load(y + i)).store_s32(wide);
    for (int j = 0; j < Vec::size; ++j) to[i + j] = static_cast<uint8_t>(wide[j]);
  }
}

// What a panel's lanes multiply and add to come from a sum to its quotient at once: sum * ratio + shift is within
// 2^-21 * (256 + max |shift|) of the quotient of the formula wherever that is in the grid. limit: how far from an integer it may
// lie before the formula itself is asked; below 0 where sums could be so large, or constants such, that it always must.
struct Shortcut {
  const float* ratio = nullptr;
  const float* shift = nullptr;
  float limit = -1;
};

// Repeats the constants of a panel of at most 32 channels over its unused lanes, for the vectors in which several rows share them.
inline void repeat_narrow(int64_t columns, float* lanes) {
  int64_t width = columns <= 16 ? 16 : columns <= 32 ? 32 : kPanel;
  for (; width < kPanel; width *= 2) std::memcpy(lanes + width, lanes, static_cast<size_t>(width) * sizeof(float));
}

// count: products in a sum. to: two spans of kPanel.
inline Shortcut make_shortcut(const CodeGrid& g, const float* scale, const float* bias, int64_t count, float* to) {
  const Vec reciprocal(g.reciprocal);
  Vec ratios(0.0f), shifts(0.0f);
  for (int64_t i = 0; i < kPanel; i += Vec::size) {
    const Vec ratio = Vec::load(scale + i) * reciprocal, shift = Vec::load(bias + i) * reciprocal;
    ratio.store(to + i);
    shift.store(to + kPanel + i);
    // By bit pattern, so that a NaN stays.
    ratios = numerics::lane_max_bits(ratios, numerics::lane_abs(ratio));
    shifts = numerics::lane_max_bits(shifts, numerics::lane_abs(shift));
  }
  const float most_shift = numerics::reduce_bits_max(shifts);
  const float reach = numerics::reduce_bits_max(ratios) * static_cast<float>(count) * (255.0f * 128.0f) + most_shift;
  // Tiny constants have lost bits, and the bound on the error does not hold.
  const bool tame = reach < 0x1p24f && g.scale > 0x1p-60f && g.scale < 0x1p60f;
  return {to, to + kPanel, tame ? 0.5f - 0x1p-21f * (256.0f + most_shift) - 0x1p-40f : -1.0f};
}

#if defined(__AVX512VBMI__)

// 64 values in four vectors to 64 codes in channel order. Natural: vector j holds channels 16 j + 0..15; else lane L of vector j
// holds channels 16 L + 4 j + 0..3.
struct CodePacker {
  __m512 reciprocal, low, high;
  __m512i zero, order, lowest, highest;
  bool is_signed;
  const CodeGrid& grid;

  explicit CodePacker(const CodeGrid& g)
      : reciprocal(_mm512_set1_ps(g.reciprocal)), low(_mm512_set1_ps(g.low - g.zero)), high(_mm512_set1_ps(g.high - g.zero)),
        zero(_mm512_set1_epi16(static_cast<short>(g.zero))),
        order(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)),
        lowest(_mm512_set1_epi16(static_cast<short>(g.low))), highest(_mm512_set1_epi16(static_cast<short>(g.high))),
        is_signed(g.low < 0), grid(g) {}

  template <bool Natural>
  TORCHQAT_INLINE __m512i bytes_of(const __m512i code[4]) const {
    const auto half = [&](__m512i a, __m512i b) __attribute__((always_inline)) {
      return _mm512_min_epi16(highest, _mm512_max_epi16(lowest, _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero)));
    };
    const __m512i a = half(code[0], code[1]), b = half(code[2], code[3]);
    const __m512i bytes = is_signed ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
    return Natural ? _mm512_permutexvar_epi32(order, bytes) : bytes;
  }

  template <bool Natural>
  __attribute__((noinline)) __m512i exactly(const __m512 y[4]) const {
    __m512i code[4];
    for (int j = 0; j < 4; ++j) {
      code[j] = _mm512_sub_epi32(_mm512_cvttps_epi32(grid.exact(Vec(y[j])).v), _mm512_set1_epi32(static_cast<int>(grid.zero)));
    }
    return bytes_of<Natural>(code);
  }

  // Of any values. nan, if given, is set where there is one.
  template <bool Natural>
  TORCHQAT_INLINE __m512i codes_of(const __m512 y[4], uint32_t* nan = nullptr) const {
    __m512i code[4], worst = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      // A NaN stays: max and min return their second operand then.
      const __m512 q = _mm512_min_ps(high, _mm512_max_ps(low, _mm512_mul_ps(y[j], reciprocal)));
      code[j] = _mm512_cvtps_epi32(q);
      const __m512 off = _mm512_abs_ps(_mm512_sub_ps(q, _mm512_cvtepi32_ps(code[j])));
      worst = _mm512_max_epi32(worst, _mm512_castps_si512(off));
    }
    if (_mm512_cmp_ps_mask(_mm512_castsi512_ps(worst), _mm512_set1_ps(kTieLimit), _CMP_NLE_UQ) != 0) [[unlikely]] {
      if (nan != nullptr) {
        for (int j = 0; j < 4; ++j) *nan |= numerics::mask_bits(numerics::is_nan(Vec(y[j])));
      }
      return exactly<Natural>(y);
    }
    return bytes_of<Natural>(code);
  }

  // Of sums, by a shortcut with limit >= 0; scale and bias are the formula's. Constants in the order of the sums.
  template <bool Natural>
  TORCHQAT_INLINE __m512i codes_of(const __m512i sums[4], const float* ratio, const float* shift, __m512 limit, const float* scale,
                                   const float* bias) const {
    __m512i code[4];
    __m512 worst = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512 q = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[j]), _mm512_loadu_ps(ratio + 16 * j), _mm512_loadu_ps(shift + 16 * j));
      code[j] = _mm512_cvtps_epi32(q);
      worst = _mm512_range_ps(worst, _mm512_sub_ps(q, _mm512_cvtepi32_ps(code[j])), 0xb);  // the larger magnitude
    }
    if (_mm512_cmp_ps_mask(worst, limit, _CMP_NLE_UQ) != 0) [[unlikely]] {
      __m512 y[4];
      for (int j = 0; j < 4; ++j) {
        y[j] = numerics::scaled_sum(Vec(_mm512_cvtepi32_ps(sums[j])), Vec::load(scale + 16 * j), Vec::load(bias + 16 * j)).v;
      }
      return exactly<Natural>(y);
    }
    return bytes_of<Natural>(code);
  }
};

TORCHQAT_INLINE __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1; }

// Codes of a pixel's channels [0, columns), columns at most 64. value(i): y of channels [i, i + Vec::size).
template <typename Value>
TORCHQAT_INLINE void store_codes(const CodeGrid&, const CodePacker& pack, int64_t columns, Value value, uint8_t* to) {
  __m512 y[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) y[j] = 16 * j < columns ? value(16 * j).v : _mm512_setzero_ps();
  _mm512_mask_storeu_epi8(to, first_bytes(columns), pack.codes_of<true>(y));
}

// The same of sums by a shortcut, whose limit is not negative.
TORCHQAT_INLINE bool store_codes(const CodePacker& pack, const Shortcut& cut, const int32_t* sums, const float* scale, const float* bias,
                                 int64_t columns, uint8_t* to) {
  __m512i s[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) s[j] = _mm512_loadu_si512(sums + 16 * j);
  const __m512i codes = pack.codes_of<true>(s, cut.ratio, cut.shift, _mm512_set1_ps(cut.limit), scale, bias);
  _mm512_mask_storeu_epi8(to, first_bytes(columns), codes);
  return true;
}

// Several rows of a panel of at most 32 channels in one go: 4 rows of 16 or 2 rows of 32 lanes. Constants as repeat_narrow leaves
// them. Returns how many rows were done: all that fill whole vectors.
TORCHQAT_INLINE int64_t store_narrow_codes(const CodePacker& pack, const Shortcut& cut, const int32_t* sums, const float* scale,
                                           const float* bias, int64_t columns, int64_t count, uint8_t* to, int64_t apart) {
  if (columns > 32) return 0;
  const int64_t width = columns <= 16 ? 16 : 32, rows = 64 / width;
  const __m512 limit = _mm512_set1_ps(cut.limit);
  const bool dense = apart == columns && columns == width;
  const auto lanes = static_cast<__mmask32>(first_bytes(columns));
  int64_t r = 0;
  for (; r + rows <= count; r += rows) {
    __m512i s[4];
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) s[j] = _mm512_loadu_si512(sums + (r + 16 * j / width) * kPanel + 16 * j % width);
    const __m512i codes = pack.codes_of<true>(s, cut.ratio, cut.shift, limit, scale, bias);
    uint8_t* at = to + r * apart;
    if (dense) {
      _mm512_storeu_si512(at, codes);
      continue;
    }
    const __m256i low = _mm512_castsi512_si256(codes), high = _mm512_extracti64x4_epi64(codes, 1);
    if (width == 32) {
      _mm256_mask_storeu_epi8(at, lanes, low);
      _mm256_mask_storeu_epi8(at + apart, lanes, high);
    } else {
      const auto row_lanes = static_cast<__mmask16>(lanes);
      _mm_mask_storeu_epi8(at, row_lanes, _mm256_castsi256_si128(low));
      _mm_mask_storeu_epi8(at + apart, row_lanes, _mm256_extracti128_si256(low, 1));
      _mm_mask_storeu_epi8(at + 2 * apart, row_lanes, _mm256_castsi256_si128(high));
      _mm_mask_storeu_epi8(at + 3 * apart, row_lanes, _mm256_extracti128_si256(high, 1));
    }
  }
  return r;
}

#else

struct CodePacker {
  explicit CodePacker(const CodeGrid&) {}
};

template <typename Value>
TORCHQAT_INLINE void store_codes(const CodeGrid& g, const CodePacker&, int64_t columns, Value value, uint8_t* to) {
  alignas(64) float y[kPanel];
  alignas(64) uint8_t staged[kPanel];
  const Vec reciprocal(g.reciprocal), zero(g.zero), low(g.low - g.zero), high(g.high - g.zero);
  Vec worst(0.0f);
  for (int64_t i = 0; i < columns; i += Vec::size) {
    const Vec v = value(i);
    v.store(y + i);
    const Vec q = numerics::lane_min(high, numerics::lane_max(low, v * reciprocal)), nearest = numerics::round_even(q);
    worst = numerics::lane_max_bits(worst, numerics::lane_abs(q - nearest));
    const Vec code = nearest + zero;
    if (g.low < 0) {
      code.store_s8(reinterpret_cast<int8_t*>(staged + i));
    } else {
      code.store_u8(staged + i);
    }
  }
  constexpr uint32_t all = (1u << Vec::size) - 1u;
  if (numerics::mask_bits(in_range(worst, Vec(0.0f), Vec(kTieLimit))) != all) [[unlikely]] {
    store_codes_exactly(g, y, (columns + Vec::size - 1) / Vec::size * Vec::size, staged);
  }
  std::memcpy(to, staged, static_cast<size_t>(columns));
}

TORCHQAT_INLINE bool store_codes(const CodePacker&, const Shortcut&, const int32_t*, const float*, const float*, int64_t, uint8_t*) {
  return false;
}

TORCHQAT_INLINE int64_t store_narrow_codes(const CodePacker&, const Shortcut&, const int32_t*, const float*, const float*, int64_t, int64_t,
                                           uint8_t*, int64_t) {
  return 0;
}

#endif

}  // namespace
}  // namespace torchqat::cpu::conv
