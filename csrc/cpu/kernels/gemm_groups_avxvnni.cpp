// dx of a weight in groups: the avxvnni path.
#include "cpu/kernels/gemm_groups_generic.h"
#include "cpu/kernels/gemm_groups_tile_avx2.h"

namespace torchqat::cpu {
namespace {

// Inline assembly, so that a tile's accumulators stay in registers.
struct AddPairs {
  static TORCHQAT_INLINE __m256i add(__m256i sum, __m256i a, __m256i b) {
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
  }
};

}  // namespace

void gemm_groups_avxvnni(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  run_gemm_groups<GroupsTile256<AddPairs>>(g, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
