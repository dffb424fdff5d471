// Gradients of a learned scale and zero point (LSQ, Esser 2020; LSQ+, Bhalgat 2020), one element at a time, and what the
// forward makes of the learned values.
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

}  // namespace torchqat::numerics
