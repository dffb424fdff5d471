// dx of a weight in groups: the scalar path.
#include "cpu/kernels/gemm_groups_generic.h"

namespace torchqat::cpu {
namespace {

struct ScalarGroupsTile {
  static constexpr int most = 4, some = 2;

  template <int count>
  static void rows(const int16_t* a, const int16_t* b, int64_t steps, int32_t* acc) {
    std::fill(acc, acc + count * kBlockColumns, 0);
    for (int64_t s = 0; s < steps; ++s, b += 2 * kBlockColumns) {
      for (int64_t r = 0; r < count; ++r) {
        const int16_t* pair = a + r * kGroupLines + 2 * s;
        for (int64_t j = 0; j < kBlockColumns; ++j) acc[r * kBlockColumns + j] += pair[0] * b[2 * j] + pair[1] * b[2 * j + 1];
      }
    }
  }
};

}  // namespace

void gemm_groups_scalar(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  run_gemm_groups<ScalarGroupsTile>(g, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
