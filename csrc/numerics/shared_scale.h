// The integer grid where many values share a scale: affine.h's results, bit for bit, without dividing. For vectors whose
// multiply-adds are much faster than their divisions. Two ways to the same numbers:
// - the product with the reciprocal, where it is not too near a tie (the caller looks, and divides where it is);
// - the quotient itself, made exact by its remainder: for 16-bit tensors, whose few values meet ties all the time.
#pragma once
#include <limits>

#include "cpu/vec/vec.h"
#include "numerics/affine.h"
#include "numerics/bits.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// A scale, its reciprocal, and the grid as offsets from the zero point (exact: both are at most 2^24).
struct SharedScale {
  float scale, reciprocal, low, high;
  float margin;  // of |product - nearest| up to which rounding the product is rounding the quotient

  // Whether the shortcuts hold: a reciprocal well inside the normal range, a zero point on the grid, and a grid small enough that
  // errors stay below a level.
  bool fits;

  TORCHQAT_INLINE SharedScale(float s, float zero_point, float quant_min, float quant_max)
      : scale(s), reciprocal(1.0f / s), low(quant_min - zero_point), high(quant_max - zero_point) {
    const float reach = (lane_max(-low, high)) + 2.0f;
    // The product, which is not rounded, is off x / s by 2^-24 |x / s|, and the quotient's own rounding adds as much: twice that
    // is left on either side. A product beyond reach is clamped whichever way it rounds.
    margin = 0.5f - reach * 0x1p-22f;
    fits = reciprocal >= smallest && reciprocal <= largest && low <= 0.0f && high >= 0.0f && reach <= 65536.0f;
  }
  static constexpr float smallest = 0x1p-80f, largest = 0x1p80f;  // of reciprocals
};

// Adding and taking away 1.5 * 2^23 rounds what is below 2^22 to an integer; its zero is +0.
inline constexpr float rounding_shift = 12582912.0f;

// rint(x / s) where the caller finds worst <= margin, worst being the running largest |product - nearest|. Infinities and NaN
// pass through and count for nothing.
TORCHQAT_INLINE Vec shared_nearest(Vec x, Vec reciprocal, Vec& worst) {
  const Vec shift(rounding_shift), nearest = lane_fma(x, reciprocal, shift) - shift;
#if defined(__AVX512DQ__)  // the larger magnitude, without a sign; a number beats NaN
  worst = _mm512_range_ps(worst.v, _mm512_fmsub_ps(x.v, reciprocal.v, nearest.v), 0b1011);
#else
  worst = lane_max(lane_abs(lane_fma(x, reciprocal, Vec(0.0f) - nearest)), worst);
#endif
  return nearest;
}

// Lanes that a clamp has left as they were: where the gradient passes. Bit i is lane i.
TORCHQAT_INLINE uint32_t unclipped(Vec before, Vec clamped) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(before.v, clamped.v, _CMP_EQ_OQ);
#else
  return mask_bits(in_range(before, clamped, clamped));
#endif
}

// The largest x that rounds to level or below, for a level >= 0. Vectors of 16 lanes.
template <typename V>
TORCHQAT_INLINE float last_of_level(const SharedScale& g, float level) {
  static_assert(V::size == 16);
  // It lies within two units in the last place of the tie's own product; half units also find the finer numbers below a power of two.
  const float tie = (level + 0.5f) * g.scale, half_unit = bits_as<float>(bits_as<uint32_t>(tie) & 0x7f800000u) * 0x1p-24f;
  alignas(64) static constexpr float step[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
  const V x = V(tie) + V::load(step) * V(half_unit);
  constexpr float inf = std::numeric_limits<float>::infinity();
  return reduce_max(select(in_range(round_even(x / V(g.scale)), V(0.0f), V(level)), x, V(-inf)));
}

// What exact_level wants beside the scale.
template <typename V>
struct ExactScale {
  V minus_scale, reciprocal, rest;  // rest: what the reciprocal lacks to 1 / scale
  V first, last;                    // the ends of what the grid does not clip

  TORCHQAT_INLINE explicit ExactScale(const SharedScale& g)
      : minus_scale(-g.scale), reciprocal(g.reciprocal), rest(lane_fma(minus_scale, reciprocal, V(1.0f)) * reciprocal),
        first(-last_of_level<V>(g, -g.low)), last(last_of_level<V>(g, g.high)) {}
};

// rint(x / s) of first <= x <= last (Markstein 1990): a quotient within a unit in the last place, its remainder, which is exact, and
// a reciprocal that is correctly rounded give the correctly rounded quotient. NaN stays NaN.
template <typename V>
TORCHQAT_INLINE V exact_level(V x, const ExactScale<V>& g) {
  const V near = lane_fma(x, g.reciprocal, x * g.rest);
  const V remainder = lane_fma(near, g.minus_scale, x);
  const V quotient = lane_fma(remainder, g.reciprocal, near), shift(rounding_shift);
  return (quotient + shift) - shift;
}

// (q - z) * s of a clamped offset, whose zero is +0.
TORCHQAT_INLINE Vec shared_value(Vec clamped, Vec scale) { return clamped * scale; }

}  // namespace torchqat::numerics
