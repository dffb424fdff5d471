// rint(x / scale) by a multiplication where the quotient is known to be small: one comparison per lane with a constant.
#pragma once
#include "numerics/quotient.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// How far `nearest`, the rounded product of x and quotient_reciprocal(scale), lies from it. Where that is within
// kCertainDistance and the product below 256 in magnitude, nearest is round_even(x / scale): rounded_quotient's margin with
// that bound. A NaN is within nothing.
constexpr float kCertainDistance = 0.5f - 256.0f * 0x1p-21f;
TORCHQAT_INLINE Vec rounding_distance(Vec product, Vec nearest) { return lane_abs(product - nearest); }

}  // namespace torchqat::numerics
