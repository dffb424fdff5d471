// Backward products on 8-bit limbs: the amx path.
#include "cpu/kernels/gemm_grad_generic.h"
#include "cpu/kernels/gemm_limbs_short.h"
#include "cpu/kernels/gemm_tile_amx.h"

namespace torchqat::cpu {

void gemm_limbs_amx(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  if (run_gemm_limbs_short(g, row_begin, row_end, panel_begin, panel_end)) return;
  run_gemm_limbs<AmxTile>(g, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
