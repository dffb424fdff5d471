// A gradient as a 16-bit integer in two balanced 8-bit limbs, 256 * high + low, both in [-128, 127].
#pragma once
#include "numerics/rounding.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// The largest 16-bit value whose balanced limbs fit.
constexpr float kLimbMax = 127.0f * 256.0f + 127.0f;

// The larger of two numbers that are not negative; a NaN is larger than all.
TORCHQAT_INLINE float larger_or_nan(float a, float b) { return a > b || a != a ? a : b; }

// What 1 of the 16-bit integer stands for, and its inverse, for values up to `largest`. A largest that is not finite makes
// the value NaN, and with it every result it enters.
TORCHQAT_INLINE float limb_scale(float largest) {
  return largest <= 3.402823466e38f ? largest / kLimbMax : __builtin_nanf("");
}
// 0 where there is nothing to scale; a largest too small for its inverse becomes 0 too.
TORCHQAT_INLINE float limb_inverse(float largest) {
  const float inverse = kLimbMax / largest;
  return inverse <= 3.402823466e38f ? inverse : 0.0f;
}

template <typename V>
TORCHQAT_INLINE V limb_value(V gradient, V inverse) {
  // In this order a NaN becomes the lower end; its line is NaN through the scale.
  return lane_min(lane_max(round_even(gradient * inverse), V(-kLimbMax)), V(kLimbMax));
}

// whole = 256 * high + low with low in [-128, 127]. The quarter breaks the tie at 128 upwards.
template <typename V>
TORCHQAT_INLINE V high_limb(V whole) {
  return round_even((whole + V(0.25f)) * V(1.0f / 256.0f));
}
template <typename V>
TORCHQAT_INLINE V low_limb(V whole, V high) {
  return whole - high * V(256.0f);
}

// The product of limbs put together again.
template <typename V>
TORCHQAT_INLINE V joined_limbs(V high, V low) {
  return high * V(256.0f) + low;
}

}  // namespace torchqat::numerics
