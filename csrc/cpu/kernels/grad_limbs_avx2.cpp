// Statistics and limbs of a gradient: the avx2 path.
#include "cpu/kernels/grad_limbs_generic.h"

namespace torchqat::cpu {

void grad_stats_avx2(const GradSource& s, const GradStats& stats, int64_t chunk_begin, int64_t chunk_end) {
  with_type(s.type, [&]<typename T>() { grad_stats_of<T>(s, stats, chunk_begin, chunk_end); });
}

void split_rows_avx2(const GradSource& s, const LimbLines& lines, int64_t row_begin, int64_t row_end) {
  with_type(s.type, [&]<typename T>() { split_rows_of<T>(s, lines, row_begin, row_end); });
}

void split_columns_avx2(const GradSource& s, const LimbLines& lines, int64_t block_begin, int64_t block_end) {
  with_type(s.type, [&]<typename T>() { split_columns_of<T>(s, lines, block_begin, block_end); });
}

}  // namespace torchqat::cpu
