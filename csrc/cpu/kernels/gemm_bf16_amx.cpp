// Backward products on bfloat16 gradients: the amx path.
#include "cpu/kernels/gemm_grad_generic.h"
#include "cpu/kernels/gemm_tile_amx.h"

namespace torchqat::cpu {

void gemm_bf16_amx(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  run_gemm_bf16<AmxTile>(g, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
