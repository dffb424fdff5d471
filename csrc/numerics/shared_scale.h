// The integer grid where many values share a scale: affine.h's results, bit for bit, without dividing. For vectors whose
// multiply-adds are much faster than their divisions.
#pragma once
#include "cpu/vec/vec.h"
#include "numerics/affine.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// A scale, its reciprocal, and the grid as offsets from the zero point (exact: both are at most 2^24).
struct SharedScale {
  float scale, reciprocal, low, high;
  float margin;  // of |product - nearest| up to which rounding the product is rounding the quotient

  // Whether the shortcut holds: a reciprocal in the normal range, and a grid small enough that errors stay below a level.
  bool fits;

  TORCHQAT_INLINE SharedScale(float s, float zero_point, float quant_min, float quant_max)
      : scale(s), reciprocal(1.0f / s), low(quant_min - zero_point), high(quant_max - zero_point) {
    const float reach = (lane_max(-low, high)) + 2.0f;
    // |product - x / s| <= 2^-23 |x / s| and the quotient's own rounding adds 2^-24: twice that is left on either side.
    // A product beyond reach is clamped whichever way it rounds.
    margin = 0.5f - reach * 0x1p-21f;
    fits = reciprocal >= smallest && reciprocal <= largest && reach <= 65536.0f;
  }
  static constexpr float smallest = 0x1p-100f, largest = 0x1p100f;  // of reciprocals
};

// rint(x / s) where the caller finds worst <= margin, worst being the running largest |product - nearest|. Infinities and NaN
// pass through and count for nothing.
TORCHQAT_INLINE Vec shared_nearest(Vec x, Vec reciprocal, Vec& worst) {
  const Vec product = x * reciprocal, nearest = round_even(product);
  worst = lane_max(lane_abs(product - nearest), worst);
  return nearest;
}

// (q - z) * s of a clamped offset; adding zero drops the sign of -0, as adding the zero point does.
TORCHQAT_INLINE Vec shared_value(Vec clamped, Vec scale) { return lane_fma(clamped, scale, Vec(0.0f)); }

}  // namespace torchqat::numerics
