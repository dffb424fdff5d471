// Gradients of a learned scale and zero point (LSQ, Esser 2020; LSQ+, Bhalgat 2020) or clipping bound (PACT, Choi 2018), one
// element at a time, and what the forward makes of the learned values.
#pragma once
#include <limits>

#include "numerics/affine.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// Never below the smallest normal number.
template <typename S>
TORCHQAT_INLINE S learned_scale(S scale) {
  return lane_max(scale, std::numeric_limits<S>::min());
}

template <typename S>
TORCHQAT_INLINE S learned_zero_point(S zero_point, S quant_min, S quant_max) {
  return clamp_level(round_even(zero_point), quant_min, quant_max);
}

template <typename V>
struct LearnedTerms {
  V dx;       // dy inside, 0 where clipped
  V ds;       // dy * ((q - z) - x / s) inside, dy * (q - z) where clipped
  V clipped;  // dy where clipped, 0 inside; dz = -s * their sum
};

// NaN inputs give nothing to any gradient.
template <typename V>
TORCHQAT_INLINE LearnedTerms<V> learned_terms(V x, V dy, V scale, V zero_point, V quant_min, V quant_max) {
  const V zero(typename V::Scalar(0));
  const V ratio = x / scale;
  const V level = round_even(ratio) + zero_point;
  const auto inside = in_range(level, quant_min, quant_max);
  const auto nan = is_nan(level);
  const V offset = clamp_level(level, quant_min, quant_max) - zero_point;
  const V slope = select(inside, offset - ratio, offset);
  return {select(inside, dy, zero), select(nan, zero, dy * slope), select(inside, zero, select(nan, zero, dy))};
}

// PACT: clip at quant_min * s and quant_max * s first, quantise straight through after. dy goes to x strictly below the upper
// bound and from the lower one on, elsewhere to the bound: ds = dy * quant_max or dy * quant_min. No zero point.
template <typename V>
TORCHQAT_INLINE LearnedTerms<V> pact_terms(V x, V dy, V scale, V, V quant_min, V quant_max) {
  const V zero(typename V::Scalar(0)), infinity(std::numeric_limits<typename V::Scalar>::infinity());
  const V ratio = x / scale;
  const auto above = in_range(ratio, quant_max, infinity);
  const auto within = in_range(ratio, quant_min, quant_max);
  const V below = select(is_nan(ratio), zero, dy * quant_min);
  return {select(above, zero, select(within, dy, zero)), select(above, dy * quant_max, select(within, zero, below)), zero};
}

struct LsqRule {
  template <typename V>
  static TORCHQAT_INLINE LearnedTerms<V> terms(V x, V dy, V scale, V zero_point, V quant_min, V quant_max) {
    return learned_terms(x, dy, scale, zero_point, quant_min, quant_max);
  }
};
struct PactRule {
  template <typename V>
  static TORCHQAT_INLINE LearnedTerms<V> terms(V x, V dy, V scale, V zero_point, V quant_min, V quant_max) {
    return pact_terms(x, dy, scale, zero_point, quant_min, quant_max);
  }
};

}  // namespace torchqat::numerics
