// The integer grid: q = clamp(rint(x / s) + z, quant_min, quant_max), y = (q - z) * s (ONNX QuantizeLinear and
// DequantizeLinear). V is float, double or a SIMD vector; a code is held in V until it is stored.
#pragma once
#include "numerics/rounding.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// Before the clamp: what the straight-through rule looks at. z is added even when 0, so that -0.0 becomes +0.0.
template <typename V>
TORCHQAT_INLINE V affine_level(V x, V scale, V zero_point) {
  return round_even(x / scale) + zero_point;
}

// NaN stays NaN.
template <typename V>
TORCHQAT_INLINE V clamp_level(V level, V quant_min, V quant_max) {
  return lane_min(quant_max, lane_max(quant_min, level));
}

template <typename V>
TORCHQAT_INLINE V affine_code(V x, V scale, V zero_point, V quant_min, V quant_max) {
  return clamp_level(affine_level(x, scale, zero_point), quant_min, quant_max);
}

// A code to be stored as an integer: NaN becomes the zero point.
template <typename V>
TORCHQAT_INLINE V storable_code(V code, V zero_point) {
  return select(is_nan(code), zero_point, code);
}

template <typename V>
TORCHQAT_INLINE V affine_value(V code, V scale, V zero_point) {
  return (code - zero_point) * scale;
}

}  // namespace torchqat::numerics
