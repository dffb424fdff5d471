// Linear layers on weights in groups: the avx512 path.
#include "cpu/kernels/grouped_float_tile_avx512.h"
#include "cpu/kernels/linear_grouped_entry.h"

namespace torchqat::cpu {

void grouped_int8_avx512(const GroupedInt8& g, const GroupedRange& range) {
  const bool one = range.row_end - range.row_begin <= 1;
  switch (g.w.slot) {
    case 2: one ? gemv_rows<2>(g, range) : register_gemm<2>(g, range); break;
    case 4: one ? gemv_rows<4>(g, range) : register_gemm<4>(g, range); break;
    default: one ? gemv_rows<8>(g, range) : register_gemm<8>(g, range); break;
  }
  set_nan_rows(g, range);
}

void grouped_float_avx512(const GroupedFloat& g, const GroupedRange& range) {
  if (range.row_end - range.row_begin < 6) return run_grouped_float(g, range);
  switch (g.w.slot) {
    case 2: return float_gemm<2>(g, range);
    case 4: return float_gemm<4>(g, range);
    default: return float_gemm<8>(g, range);
  }
}

}  // namespace torchqat::cpu
