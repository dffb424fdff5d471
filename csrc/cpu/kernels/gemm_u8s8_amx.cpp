// u8 x s8 GEMM. AMX-INT8; a few rows are faster on VNNI, which reads each weight once.
#include "cpu/kernels/gemm_tile_amx.h"
#include "cpu/kernels/gemm_u8s8_generic.h"

namespace torchqat::cpu {

void gemm_u8s8_amx(const GemmU8S8& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  if (row_end - row_begin <= 6) return gemm_u8s8_avx512(g, row_begin, row_end, panel_begin, panel_end);
  run_gemm_u8s8<AmxTile, U8S8>(g, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
