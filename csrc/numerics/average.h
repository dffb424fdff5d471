// Average pooling on an integer grid: the sum of q - z over the window is exact (float32 holds integers up to 2^24, so at most
// 65536 elements), and y = sum * (s / count), two roundings.
#pragma once
#include "numerics/config.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

constexpr int64_t kAverageMost = 65536;

template <typename V>
TORCHQAT_INLINE V average_factor(V scale, V count) {
  return scale / count;
}

template <typename V>
TORCHQAT_INLINE V average_value(V sum, V factor) {
  return sum * factor;
}

}  // namespace torchqat::numerics
