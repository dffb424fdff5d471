// Histograms over [-bound, bound) with bound a power of two: where the bins lie, and which bin a value falls into. Both devices
// search the bins with these.
#pragma once
#include "numerics/bits.h"
#include "numerics/rounding.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// The smallest power of two that is at least magnitude, within [2^-100, 2^127].
TORCHQAT_INLINE float histogram_bound(float magnitude) {
  const float m = lane_max(magnitude, 0x1p-100f), power = exponent_power(m);
  return power < m && power < 0x1p127f ? 2.0f * power : power;
}

// Bin of a value, counted from -half; half = bins / 2, per_unit = half / bound, a power of two, so the product is exact. What is
// outside goes to the outermost bins.
TORCHQAT_INLINE float histogram_place(float x, float per_unit, float half) {
  return lane_min(half - 1.0f, lane_max(::floorf(x * per_unit), -half));
}

// Lower end of a bin, counted from 0.
TORCHQAT_INLINE double histogram_edge(int64_t bin, int64_t bins, float bound) {
  return (static_cast<double>(bin) / static_cast<double>(bins / 2) - 1.0) * static_cast<double>(bound);
}

// A search over ranges tries these parts of one, k / histogram_steps.
inline constexpr int histogram_steps = 64;

// What the values of a bin are taken for: its centre, within the values seen.
TORCHQAT_INLINE double histogram_centre(int64_t bin, int64_t bins, float bound, float lo, float hi) {
  const double centre = (histogram_edge(bin, bins, bound) + histogram_edge(bin + 1, bins, bound)) / 2.0;
  return lane_min(static_cast<double>(hi), lane_max(static_cast<double>(lo), centre));
}

}  // namespace torchqat::numerics
