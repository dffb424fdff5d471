// BatchNorm with a batch's own statistics: the value and the gradient of one element, and the running average.
#pragma once
#include "numerics/rounding.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// scale = gamma / sqrt(var + eps). Centring first keeps the digits of a channel whose mean is large.
template <typename V>
TORCHQAT_INLINE V normalized(V centred, V scale, V shift) {
  return centred * scale + shift;
}

// Within [0, ceiling]; a NaN survives.
template <typename V>
TORCHQAT_INLINE V rectified(V y, V ceiling) {
  return lane_min(ceiling, lane_max(V(0.0f), y));
}

// The gradient behind `rectified`: none at its ends and beyond.
template <typename V>
TORCHQAT_INLINE V rectified_gradient(V y, V ceiling, V gradient) {
  const V infinity(__builtin_inff()), zero(0.0f);
  return select(in_range(y, zero - infinity, zero), zero, select(in_range(y, ceiling, infinity), zero, gradient));
}

// mean: of the gradient over the channel; slope: mean(gradient * centred) / (var + eps).
template <typename V>
TORCHQAT_INLINE V normalized_gradient(V gradient, V centred, V mean, V slope, V scale) {
  return (gradient - mean - centred * slope) * scale;
}

TORCHQAT_INLINE double running_average(double old, double now, double momentum) { return (1.0 - momentum) * old + momentum * now; }

}  // namespace torchqat::numerics
