// Backward products on 8-bit limbs: the avx2 path.
#include "cpu/kernels/gemm_grad_generic.h"
#include "cpu/kernels/gemm_tile_avx2.h"

namespace torchqat::cpu {

void gemm_limbs_avx2(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  run_gemm_limbs<Avx2Tile>(g, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
