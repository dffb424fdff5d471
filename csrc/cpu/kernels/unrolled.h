// Loops over constants. An ordinary loop over a register tile, even an unrolled one, would keep its array of sums in memory.
#pragma once
#include <utility>

#include "numerics/config.h"

namespace torchqat::cpu {
namespace {

// Calls f with the constants 0 ... count - 1.
template <int count, typename F>
TORCHQAT_INLINE void unrolled(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }(std::make_integer_sequence<int, count>{});
}

}  // namespace
}  // namespace torchqat::cpu
