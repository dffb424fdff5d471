// The float epilogue of an integer layer: y = float32(acc) * (s_x * s_w) + b, every operation rounded once.
#pragma once
#include "numerics/config.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

template <typename V>
TORCHQAT_INLINE V product_scale(V input_scale, V weight_scale) {
  return input_scale * weight_scale;
}

// A layer without bias adds +0.
template <typename V>
TORCHQAT_INLINE V scaled_sum(V acc, V scale, V bias) {
  return acc * scale + bias;
}

}  // namespace torchqat::numerics
