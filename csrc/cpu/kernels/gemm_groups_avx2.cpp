// dx of a weight in groups: the avx2 path.
#include "cpu/kernels/gemm_groups_generic.h"
#include "cpu/kernels/gemm_groups_tile_avx2.h"

namespace torchqat::cpu {
namespace {

struct AddPairs {
  static TORCHQAT_INLINE __m256i add(__m256i sum, __m256i a, __m256i b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
};

}  // namespace

void gemm_groups_avx2(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  run_gemm_groups<GroupsTile256<AddPairs>>(g, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
