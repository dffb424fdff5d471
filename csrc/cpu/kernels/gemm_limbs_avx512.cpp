// Backward products on 8-bit limbs: the avx512 path.
#include "cpu/kernels/gemm_grad_generic.h"
#include "cpu/kernels/gemm_limbs_short.h"
#include "cpu/kernels/gemm_tile_avx512.h"

namespace torchqat::cpu {
namespace {

// Rows that all panels pass before the next rows come. Each row of C may begin a page of its own: of more rows the processor
// would not keep the pages' addresses from one panel to the next.
constexpr int64_t kRowsAtOnce = 192;

}  // namespace

void gemm_limbs_avx512(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  if (run_gemm_limbs_short(g, row_begin, row_end, panel_begin, panel_end)) return;
  for (int64_t i = row_begin; i < row_end; i += kRowsAtOnce) {
    run_gemm_limbs<Avx512Tile>(g, i, std::min(row_end, i + kRowsAtOnce), panel_begin, panel_end);
  }
}

}  // namespace torchqat::cpu
