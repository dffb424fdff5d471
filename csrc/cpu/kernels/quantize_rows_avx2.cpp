// Rows to u8 codes: the avx2 path.
#include "cpu/kernels/quantize_rows_generic.h"

namespace torchqat::cpu {

void quantize_rows_avx2(const QuantizeRows& q, int64_t row_begin, int64_t row_end) {
  run_quantize_rows(q, row_begin, row_end);
}

}  // namespace torchqat::cpu
