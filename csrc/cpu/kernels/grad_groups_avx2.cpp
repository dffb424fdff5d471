// Operands of dx of a weight in groups: the avx2 path.
#include "cpu/kernels/grad_groups_generic.h"

namespace torchqat::cpu {

void rows_to_s16_avx2(const GradSource& s, const float* inverse, int16_t* out, int64_t ld, int64_t row_begin, int64_t row_end) {
  rows_to_s16(s, inverse, out, ld, row_begin, row_end);
}

void scales_to_s16_avx2(const GroupedCodes& w, int16_t* out, float* unit, int64_t group_begin, int64_t group_end) {
  scales_to_s16(w, out, unit, group_begin, group_end);
}

void codes_to_blocks_avx2(const GroupedCodes& w, int16_t* out, int64_t block_begin, int64_t block_end) {
  codes_to_blocks(w, out, block_begin, block_end);
}

}  // namespace torchqat::cpu
