// u8 x s8 GEMM. AVX-VNNI.
#include "cpu/kernels/gemm_tile_avxvnni.h"
#include "cpu/kernels/gemm_u8s8_generic.h"

namespace torchqat::cpu {

void gemm_u8s8_avxvnni(const GemmU8S8& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  run_gemm_u8s8<AvxVnniTile, U8S8>(g, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
