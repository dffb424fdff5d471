// Linear layers with weights in groups along K: what one output is made of. acc is the exact int32 sum of
// (q_x - z_x) * q_w over a group; groups are taken in ascending order:
//   t = fma(float32(acc), s_w[g], t)        y = t * s_x + b        (the second line with two roundings)
// Weight-only layers: acc is float32, an fma per element in ascending order, minus zero_point * sum(x) with one fma:
//   acc = fma(x[k], q_w[k], acc)    acc = fma(-z_w[g], sum(x), acc)    t = fma(acc, s_w[g], t)    y = t + b
#pragma once
#include "numerics/config.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

template <typename V>
TORCHQAT_INLINE V add_group(V total, V acc, V weight_scale) {
  return lane_fma(acc, weight_scale, total);
}

template <typename V>
TORCHQAT_INLINE V grouped_layer_value(V total, V input_scale) {
  return total * input_scale;
}

template <typename V>
TORCHQAT_INLINE V without_zero_point(V acc, V zero_point, V input_sum) {
  return lane_fma(V(0.0f) - zero_point, input_sum, acc);
}

}  // namespace torchqat::numerics
