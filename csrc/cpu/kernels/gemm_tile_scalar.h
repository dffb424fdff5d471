// The reference tile: plain integer loops.
#pragma once
#include <type_traits>

#include "cpu/kernels/gemm_ops.h"
#include "cpu/kernels/panels.h"

namespace torchqat::cpu {
namespace {

struct ScalarTile {
  static constexpr int64_t half = 2;

  template <typename Op>
  static void row(const uint8_t* a, const uint8_t* panel, int64_t steps, int32_t* acc) {
    using A = std::conditional_t<std::is_same_v<Op, U8S8>, uint8_t, int8_t>;
    using B = std::conditional_t<std::is_same_v<Op, U8S8>, int8_t, uint8_t>;
    for (int64_t j = 0; j < kPanelColumns; ++j) acc[j] = 0;
    for (int64_t s = 0; s < steps; ++s, a += 4, panel += 4 * kPanelColumns) {
      for (int64_t j = 0; j < kPanelColumns; ++j) {
        for (int64_t t = 0; t < 4; ++t) acc[j] += static_cast<A>(a[t]) * static_cast<B>(panel[4 * j + t]);
      }
    }
  }

  template <typename Op>
  void multiply(const uint8_t* a0, int64_t rows0, const uint8_t* a1, int64_t rows1, int64_t lda, const uint8_t* panel,
                int64_t steps, int32_t* acc) const {
    for (int64_t r = 0; r < rows0; ++r) row<Op>(a0 + r * lda, panel, steps, acc + r * kPanelColumns);
    for (int64_t r = 0; r < rows1; ++r) row<Op>(a1 + r * lda, panel, steps, acc + (half + r) * kPanelColumns);
  }
};

}  // namespace
}  // namespace torchqat::cpu
