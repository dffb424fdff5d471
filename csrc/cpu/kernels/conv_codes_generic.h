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

// Constants that take a value to its code by a fixed point of 16 bits: (y / s + z + 1/2 + margin units) * 2^16.
struct ValueConstants {
  static constexpr int kMargin = 5;  // of one rounding, those of shift, product and quotient 4 units, and half a one: half the window
  float ratio, shift, cap;
  int offset, lowest, highest;  // of bytes; signed grids lie 128 higher until they are stored
  explicit ValueConstants(const CodeGrid& g) : offset(g.low < 0 ? 128 : 0) {
    const float unit = g.reciprocal * 0x1p16f;
    ratio = unit < 0x1p100f ? unit : __builtin_nanf("");  // NaN sends everything to the division
    shift = ((g.zero + static_cast<float>(offset) + 0.5f) + static_cast<float>(kMargin) * 0x1p-16f) * 0x1p16f;
    cap = 0x1p25f + 0x1p15f;  // far above the grid, and no near-tie
    lowest = static_cast<int>(g.low) + offset;
    highest = static_cast<int>(g.high) + offset;
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

// What a panel's lanes multiply and add to come from a sum to its code at once, where sums and constants are tame:
//   sum * ratio + shift = (y / s + z + 1/2) * 2^16 + window / 2, within window / 2
// so that the code is the whole part, unless the low 16 bits are at most `window`: then the formula itself is asked.
// Signed grids are shifted up by 128 until they are stored. window below 0: always ask the formula.
struct Shortcut {
  const float* ratio = nullptr;
  const float* shift = nullptr;
  int window = -1;
};

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
  // Beyond, the fixed point overflows; tiny constants have lost bits, and the bound on the error does not hold.
  const bool tame = reach < 0x1p15f - 512.0f && g.scale > 0x1p-60f && g.scale < 0x1p60f;
  if (!tame) return {to, to + kPanel, -1};
  // Roundings of 2^-24 each: three of the formula, of at most |shift| + |y / s|, |y / s| and |y / s|; here those of the ratio, of the
  // shift and of the result, of at most |shift| + |y / s|, |shift| + 257 and 257; and half a unit of the fixed point.
  const float most = std::max(std::fabs(g.low - g.zero), std::fabs(g.high - g.zero)) + 1.0f;
  const int margin = 1 + static_cast<int>((4.0f * most + 514.0f + 3.01f * most_shift) * 0x1p-8f + 0.51f);
  const double unit = 65536.0 / static_cast<double>(g.scale);
  const double offset = (static_cast<double>(g.zero) + (g.low < 0 ? 128.0 : 0.0) + 0.5) * 65536.0 + margin;
  for (int64_t i = 0; i < kPanel; ++i) {
    to[i] = static_cast<float>(static_cast<double>(scale[i]) * unit);
    to[kPanel + i] = static_cast<float>(static_cast<double>(bias[i]) * unit + offset);
  }
  return {to, to + kPanel, 2 * margin};
}

#if defined(__AVX512F__)

// How the lanes of four vectors of 16 are dealt out to 64 channels. natural: vector j has channels 16 j + 0..15; quads: its
// 128-bit lane L has channels 16 L + 4 j + 0..3.
enum class Deal { natural, quads };

// 64 codes at a time by the fixed point of Shortcut.
struct CodePacker {
  static constexpr int64_t width = 64;
  // Half the window of values.
  static constexpr int kValueMargin = ValueConstants::kMargin;
  __m512 ratio, shift, cap;
  __m512i lowest, highest, sign;
  const CodeGrid& grid;
  int offset;

  explicit CodePacker(const CodeGrid& g) : CodePacker(g, ValueConstants(g)) {}
  CodePacker(const CodeGrid& g, const ValueConstants& c)
      : ratio(_mm512_set1_ps(c.ratio)), shift(_mm512_set1_ps(c.shift)), cap(_mm512_set1_ps(c.cap)),
        lowest(_mm512_set1_epi8(static_cast<char>(c.lowest))), highest(_mm512_set1_epi8(static_cast<char>(c.highest))),
        sign(_mm512_set1_epi8(static_cast<char>(c.offset))), grid(g), offset(c.offset) {}

  // Channels in order, from what two packings give: within its 128-bit lane, byte i of vector j lies at 8 * (j / 2) + 2 * i + j % 2.
  template <Deal D>
  static TORCHQAT_INLINE __m512i ordered(__m512i packed) {
    const __m512i within = _mm512_set4_epi32(0x0f0d0b09, 0x0e0c0a08, 0x07050301, 0x06040200);
    const __m512i quads = _mm512_shuffle_epi8(packed, within);
    if constexpr (D == Deal::quads) return quads;
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), quads);
  }

  // The whole parts of fixed points, clamped. FullU8: the grid reaches up to 255, which packing clamps to.
  template <Deal D, bool FullU8 = false>
  TORCHQAT_INLINE __m512i bytes_of(const __m512i fixed[4]) const {
    const auto pair = [](__m512i even, __m512i odd) __attribute__((always_inline)) {
      return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even, 16), odd);
    };
    const __m512i bytes = _mm512_packus_epi16(pair(fixed[0], fixed[1]), pair(fixed[2], fixed[3]));
    const __m512i raised = _mm512_max_epu8(lowest, bytes);
    if constexpr (FullU8) return ordered<D>(raised);
    const __m512i clamped = _mm512_min_epu8(highest, raised);
    return _mm512_xor_si512(sign, ordered<D>(clamped));
  }

  // Slow paths take vectors by value: pointers would send every caller's to the stack.
  template <Deal D>
  __attribute__((noinline)) __m512i exactly(__m512 y0, __m512 y1, __m512 y2, __m512 y3) const {
    const __m512 y[4] = {y0, y1, y2, y3};
    __m512i fixed[4];
    for (int j = 0; j < 4; ++j) {
      const __m512i code = _mm512_cvttps_epi32(grid.exact(Vec(y[j])).v);
      fixed[j] = _mm512_slli_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(offset)), 16);
    }
    return bytes_of<D>(fixed);
  }

  static TORCHQAT_INLINE bool near_tie(const __m512i fixed[4], __m512i window) {
    // The upper halves take part in the minimum and are left out of the test.
    const __m512i least = _mm512_min_epu16(_mm512_min_epu16(fixed[0], fixed[1]), _mm512_min_epu16(fixed[2], fixed[3]));
    return _mm512_mask_cmple_epu16_mask(0x55555555, least, window) != 0;
  }

  // Of any values. nan, if given, is set where there is one.
  TORCHQAT_INLINE __m512i codes_of(const __m512 y[4], uint32_t* nan = nullptr) const {
    __m512i fixed[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      // A NaN stays (min returns its second operand then). It and what lies far below become 0x80000000, a near-tie.
      fixed[j] = _mm512_cvtps_epi32(_mm512_min_ps(cap, _mm512_fmadd_ps(y[j], ratio, shift)));
    }
    if (near_tie(fixed, _mm512_set1_epi16(2 * kValueMargin))) [[unlikely]] {
      if (nan != nullptr) {
        for (int j = 0; j < 4; ++j) *nan |= numerics::mask_bits(numerics::is_nan(Vec(y[j])));
      }
      return exactly<Deal::natural>(y[0], y[1], y[2], y[3]);
    }
    return bytes_of<Deal::natural>(fixed);
  }

  TORCHQAT_INLINE void store_codes_of(const float* values, uint8_t* to, uint32_t* nan) const {
    __m512 y[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) y[j] = _mm512_loadu_ps(values + 16 * j);
    _mm512_storeu_si512(to, codes_of(y, nan));
  }

  // What all pixels of a panel share, in the order of their sums. scale and bias are the formula's.
  struct Constants {
    __m512 ratio[4], shift[4];
    const __m512 *scale, *bias;
    __m512i window;
  };

  template <Deal D>
  __attribute__((noinline)) __m512i exactly(__m512i s0, __m512i s1, __m512i s2, __m512i s3, const Constants& c) const {
    const auto value = [&](__m512i sum, int j) {
      return numerics::scaled_sum(Vec(_mm512_cvtepi32_ps(sum)), Vec(c.scale[j]), Vec(c.bias[j])).v;
    };
    return exactly<D>(value(s0, 0), value(s1, 1), value(s2, 2), value(s3, 3));
  }

  // Of sums, by a shortcut whose window is not below 0.
  template <Deal D, bool FullU8 = false>
  TORCHQAT_INLINE __m512i codes_of(const __m512i sums[4], const Constants& c) const {
    __m512i fixed[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) fixed[j] = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[j]), c.ratio[j], c.shift[j]));
    if (near_tie(fixed, c.window)) [[unlikely]] return exactly<D>(sums[0], sums[1], sums[2], sums[3], c);
    return bytes_of<D, FullU8>(fixed);
  }
};

TORCHQAT_INLINE __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1; }

// Codes of a pixel's channels [0, columns), columns at most 64. value(i): y of channels [i, i + Vec::size).
template <typename Value>
TORCHQAT_INLINE void store_codes(const CodeGrid&, const CodePacker& pack, int64_t columns, Value value, uint8_t* to) {
  __m512 y[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) y[j] = 16 * j < columns ? value(16 * j).v : _mm512_setzero_ps();
  _mm512_mask_storeu_epi8(to, first_bytes(columns), pack.codes_of(y));
}

// Stores codes of pixels `apart` bytes apart, from sums kPanel apart, Pixels of them in a vector; cut.window is not below 0.
template <int Pixels, bool FullU8 = false>
struct PixelStore {
  static constexpr int vectors = 4 / Pixels, width = kPanel / Pixels;
  const CodePacker& pack;
  int64_t apart;
  __mmask64 real;
  __m512 scales[4], biases[4];
  CodePacker::Constants c;

  PixelStore(const CodePacker& packer, const Shortcut& cut, const float* scale, const float* bias, int64_t columns, int64_t bytes_apart)
      : pack(packer), apart(bytes_apart), real(first_bytes(columns)) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int64_t at = 16 * (j % vectors);
      c.ratio[j] = _mm512_loadu_ps(cut.ratio + at);
      c.shift[j] = _mm512_loadu_ps(cut.shift + at);
      scales[j] = _mm512_loadu_ps(scale + at);
      biases[j] = _mm512_loadu_ps(bias + at);
    }
    c.scale = scales;
    c.bias = biases;
    c.window = _mm512_set1_epi16(static_cast<short>(cut.window));
  }
  PixelStore(const PixelStore&) = delete;

  TORCHQAT_INLINE __m512i codes(const int32_t* sums, const CodePacker::Constants& constants) const {
    __m512i s[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) s[j] = _mm512_loadu_si512(sums + j / vectors * kPanel + 16 * (j % vectors));
    return pack.template codes_of<Deal::natural, FullU8>(s, constants);
  }

  // Sums up to Pixels - 1 rows beyond the last pixel are read, and nothing is made of them.
  TORCHQAT_INLINE void operator()(const int32_t* sums, int64_t count, uint8_t* to) const {
    const CodePacker::Constants constants = c;  // of this scope, so that they may stay in registers beside stores of bytes
    int64_t r = 0;
    for (; r + Pixels <= count; r += Pixels, sums += Pixels * kPanel, to += Pixels * apart) {
      const __m512i bytes = codes(sums, constants);
      if constexpr (Pixels == 1) {
        _mm512_mask_storeu_epi8(to, real, bytes);
      } else if (apart == width) {
        _mm512_storeu_si512(to, bytes);
      } else if constexpr (Pixels == 2) {
        _mm256_mask_storeu_epi8(to, static_cast<__mmask32>(real), _mm512_castsi512_si256(bytes));
        _mm256_mask_storeu_epi8(to + apart, static_cast<__mmask32>(real), _mm512_extracti64x4_epi64(bytes, 1));
      } else {
        _mm_mask_storeu_epi8(to, static_cast<__mmask16>(real), _mm512_castsi512_si128(bytes));
        _mm_mask_storeu_epi8(to + apart, static_cast<__mmask16>(real), _mm512_extracti32x4_epi32(bytes, 1));
        _mm_mask_storeu_epi8(to + 2 * apart, static_cast<__mmask16>(real), _mm512_extracti32x4_epi32(bytes, 2));
        _mm_mask_storeu_epi8(to + 3 * apart, static_cast<__mmask16>(real), _mm512_extracti32x4_epi32(bytes, 3));
      }
    }
    if constexpr (Pixels > 1) {
      // The first pixel of a vector, whatever stands beside it.
      for (; r < count; ++r, sums += kPanel, to += apart) _mm512_mask_storeu_epi8(to, real, codes(sums, constants));
    }
  }
};

// False where there is no shortcut.
inline bool store_codes(const CodePacker& pack, const Shortcut& cut, const int32_t* sums, const float* scale, const float* bias,
                        int64_t columns, int64_t count, int64_t apart, uint8_t* to) {
  if (cut.window < 0) return false;
  if (columns <= 16) {
    PixelStore<4>(pack, cut, scale, bias, columns, apart)(sums, count, to);
  } else if (columns <= 32) {
    PixelStore<2>(pack, cut, scale, bias, columns, apart)(sums, count, to);
  } else {
    PixelStore<1>(pack, cut, scale, bias, columns, apart)(sums, count, to);
  }
  return true;
}

#elif !defined(__AVX2__)

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

inline bool store_codes(const CodePacker&, const Shortcut&, const int32_t*, const float*, const float*, int64_t, int64_t, int64_t, uint8_t*) {
  return false;
}

#endif

}  // namespace
}  // namespace torchqat::cpu::conv

#if defined(__AVX2__) && !defined(__AVX512F__)
#include "cpu/kernels/conv_codes_avx2.h"
#endif
