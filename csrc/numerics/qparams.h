// Scale and zero point from a range of values, and how a running range takes in a new one. Lanes or scalars.
// Non-finite values never reach here: they are left out of the range. An empty range is lo = +inf, hi = -inf.
#pragma once
#include <limits>

#include "numerics/rounding.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// What is finite takes part in statistics.
template <typename V>
TORCHQAT_INLINE auto is_finite(V x) {
  using S = typename V::Scalar;
  return in_range(x, V(-std::numeric_limits<S>::max()), V(std::numeric_limits<S>::max()));
}

template <typename V>
struct QParams {
  V scale, zero_point;
};

// symmetric: s = max|x| / quant_max, z = 0.  affine: lo = min(x, 0), hi = max(x, 0), s = (hi - lo) / (quant_max - quant_min),
// z = clamp(rint(quant_min - lo / s)), clamp(0) for an empty range. s is 1 for a zero or empty range and never below the smallest normal number; where
// hi - lo overflows, the two quotients are subtracted instead.
template <typename V, typename S = typename V::Scalar>
TORCHQAT_INLINE QParams<V> qparams(V lo, V hi, S quant_min, S quant_max, bool symmetric) {
  const auto seen = in_range(lo, lo, hi);
  const V zero(S(0)), largest(std::numeric_limits<S>::max()), smallest(std::numeric_limits<S>::min());
  lo = lane_min(lo, zero) + zero;  // an empty range gives 0, and -0 becomes +0
  hi = lane_max(hi, zero) + zero;
  const V range = symmetric ? lane_max(zero - lo, hi) : hi - lo;
  const V levels(symmetric ? quant_max : quant_max - quant_min);
  V scale = select(in_range(range, zero, largest), range / levels, hi / levels - lo / levels);
  scale = select(in_range(range, zero, zero), V(S(1)), lane_max(smallest, scale));
  if (symmetric) return {scale, lane_max(lane_min(zero, V(quant_max)), V(quant_min))};
  const V zero_point = select(seen, round_even(V(quant_min) - lo / scale), zero);
  return {scale, lane_min(V(quant_max), lane_max(V(quant_min), zero_point))};
}

// averaging 1: running minimum and maximum; below 1: exponential average, set by the first range seen. A convex
// combination cannot overflow; adding zero drops the sign of -0, which would depend on the order of the data.
template <typename S>
TORCHQAT_INLINE void merge_range(S lo, S hi, S averaging, S& running_lo, S& running_hi) {
  if (lo > hi) return;  // nothing finite this time
  if (running_lo > running_hi) {
    running_lo = lo + S(0);
    running_hi = hi + S(0);
  } else if (averaging == S(1)) {
    running_lo = lane_min(lo, running_lo) + S(0);
    running_hi = lane_max(hi, running_hi) + S(0);
  } else {
    running_lo = (S(1) - averaging) * running_lo + averaging * lo + S(0);
    running_hi = (S(1) - averaging) * running_hi + averaging * hi + S(0);
  }
}

}  // namespace torchqat::numerics
