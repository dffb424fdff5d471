// Float grids: rounding to a small float format, MX block scales (OCP Microscaling Formats v1.0) and NVFP4's two levels.
// V is float, double or SIMD lanes; everything is exact float arithmetic, so every path gives the same bits.
#pragma once
#include <limits>

#include "numerics/bits.h"
#include "numerics/float_format.h"
#include "numerics/rounding.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

template <typename S>
TORCHQAT_INLINE constexpr S power_of_two(int exponent) {
  S r = 1;
  for (; exponent > 0; --exponent) r = r * S(2);
  for (; exponent < 0; ++exponent) r = r * S(0.5);
  return r;
}

template <typename V>
struct MiniFloat {
  V min_power;  // smallest normal number
  V shift;      // times a binade's power: the number whose unit in the last place is that binade's step
  V largest;
};

// S is V's scalar type.
template <typename V, typename S>
TORCHQAT_INLINE MiniFloat<V> mini_float(const FormatSpec& f) {
  return {V(power_of_two<S>(f.min_exponent)), V(power_of_two<S>(std::numeric_limits<S>::digits - 1 - f.mantissa_bits)),
          V(static_cast<S>(f.largest))};
}

// Nearest value of the format, ties to even, +-largest beyond it; the sign of zero is kept; NaN stays NaN.
// |u| + b lies in the binade of b, whose unit in the last place is the format's step at u: the sum rounds, b comes off exactly.
template <typename V>
TORCHQAT_INLINE V round_to_format(V u, const MiniFloat<V>& f) {
  const V magnitude = lane_min(f.largest, lane_abs(u));
  const V b = lane_max(f.min_power, exponent_power(magnitude)) * f.shift;
  return with_sign((magnitude + b) - b, u);
}

// The straight-through rule: where the gradient passes.
template <typename V>
TORCHQAT_INLINE auto passes_gradient(V u, const MiniFloat<V>& f) {
  return in_range(lane_abs(u), V(0), f.largest);
}

// Shared scale of an MX block from its largest magnitude; S is V's scalar type.
//   floor 2^(floor(log2 amax) - emax)     ceil 2^(ceil(log2 amax) - emax)     rceil 2^ceil(log2(amax / largest))
//   even  floor, after rounding amax half up to the format's mantissa
// The exponent is clamped to [-127, 127]; amax = 0 gives 2^-127; a non-finite amax gives NaN.
template <typename V>
struct MxGrid {
  V inverse_max_power, half_step, largest;  // 2^-emax, half a step relative to its binade
  ScaleRounding rounding;
};

template <typename V, typename S>
TORCHQAT_INLINE MxGrid<V> mx_grid(const FormatSpec& f, ScaleRounding rounding) {
  return {V(power_of_two<S>(-f.max_exponent)), V(power_of_two<S>(-f.mantissa_bits - 1)), V(static_cast<S>(f.largest)), rounding};
}

template <typename S, typename V>
TORCHQAT_INLINE V mx_scale(V amax, const MxGrid<V>& g) {
  const V zero(S(0)), smallest(power_of_two<S>(-127)), biggest(power_of_two<S>(127));
  V scale;
  switch (g.rounding) {
    case ScaleRounding::floor:
      scale = exponent_power(amax) * g.inverse_max_power;
      break;
    case ScaleRounding::ceil: {
      const V power = exponent_power(amax), down = power * g.inverse_max_power;
      scale = select(in_range(amax, zero, power), down, down + down);
      break;
    }
    case ScaleRounding::rceil: {
      const V ratio = amax / g.largest, down = lane_max(smallest, exponent_power(ratio));
      scale = select(in_range(ratio, zero, down), down, down + down);
      break;
    }
    default: {  // even; on amax / 2, so that rounding up cannot overflow
      const V half = amax * V(S(0.5));
      scale = exponent_power(half + exponent_power(half) * g.half_step) * (g.inverse_max_power + g.inverse_max_power);
    }
  }
  scale = lane_min(biggest, lane_max(smallest, scale));
  return select(in_range(amax, zero, V(std::numeric_limits<S>::max())), scale, V(std::numeric_limits<S>::quiet_NaN()));
}

// NVFP4. The tensor scale lets block scales use all of e4m3fn; it never falls below the smallest normal number.
template <typename S>
TORCHQAT_INLINE S nvfp4_tensor_scale(S amax) {
  return lane_max(std::numeric_limits<S>::min(), amax / S(448.0 * 6.0));
}

// s_t * e4m3fn(clamp(amax / 6 / s_t, 2^-6, 448)), kept above zero where a given s_t is subnormal.
template <typename S, typename V>
TORCHQAT_INLINE V nvfp4_scale(V amax, V tensor_scale, const MiniFloat<V>& e4m3) {
  const V wanted = lane_min(V(S(448)), lane_max(V(S(0.015625)), amax / V(S(6)) / tensor_scale));
  return lane_max(V(std::numeric_limits<S>::denorm_min()), round_to_format(wanted, e4m3) * tensor_scale);
}

}  // namespace torchqat::numerics
