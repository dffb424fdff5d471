// Integer layers: from an exact integer sum to a float output, and to the codes of a next layer.
#pragma once
#include "numerics/affine.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// y = float32(acc) * (s_x * s_w), without the bias.
template <typename V>
TORCHQAT_INLINE V integer_layer_value(V acc, V input_scale, V weight_scale) {
  return acc * (input_scale * weight_scale);
}

// The codes a next layer reads: a NaN becomes its zero point.
template <typename V>
TORCHQAT_INLINE V integer_layer_code(V y, bool relu, V scale, V zero_point, V quant_min, V quant_max) {
  // lane_max(0, y) keeps a NaN y.
  const V input = relu ? lane_max(V(0.0f), y) : y;
  return storable_code(affine_code(input, scale, zero_point, quant_min, quant_max), zero_point);
}

}  // namespace torchqat::numerics
