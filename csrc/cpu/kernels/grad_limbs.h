// Contract of turning an output gradient dy [m, n] into the operands of the two backward products: statistics, then 16-bit
// integers in two limbs (numerics/limbs.h) row by row and column by column. Row form: g = dy * column_factor (the weight's
// scales), one scale per row. Column form, transposed: g = dy * row_factor (the input's scales, where they differ by row),
// one scale per column.
#pragma once
#include <cstdint>

#include "cpu/kernels/quantize_rows.h"

namespace torchqat::cpu {

struct GradSource {
  const void* grad = nullptr;  // [m, n], contiguous
  FloatType type = FloatType::float32;
  int64_t m = 0, n = 0;
  const float* column_factor = nullptr;  // [n], or one with stride 0
  int64_t column_stride = 0;
  const float* row_factor = nullptr;     // [m] or absent: 1
};

constexpr int64_t kGradChunk = 256;  // columns in a chunk of statistics

struct GradStats {
  float* row_max = nullptr;     // [chunks, m]: largest |dy * column_factor| of a row's chunk; NaN counts as largest
  float* column_max = nullptr;  // [n]
  float* column_sum = nullptr;  // [n] or absent: sums of dy in a fixed order
};

// Chunks [chunk_begin, chunk_end) of kGradChunk columns.
using GradStatsFn = void (*)(const GradSource&, const GradStats&, int64_t chunk_begin, int64_t chunk_end);

// One form's limbs. sums[segment][2][count]: per line, high then low limbs weighted with `weights` (stored zero points of
// the other operand's lines along the reduction) or with `weight` where that is absent; the products subtract them.
struct LimbLines {
  uint8_t* high = nullptr;         // [count, ld], s8; bytes beyond the reduction are 0
  uint8_t* low = nullptr;
  int64_t ld = 0;
  const float* inverse = nullptr;  // [count]
  int32_t* sums = nullptr;
  const int32_t* weights = nullptr;
  int32_t weight = 0;
};

// Rows [row_begin, row_end); lines are rows, the reduction is n.
using SplitRowsFn = void (*)(const GradSource&, const LimbLines&, int64_t row_begin, int64_t row_end);
// Blocks [block_begin, block_end) of 64 columns; lines are columns, the reduction is m.
using SplitColumnsFn = void (*)(const GradSource&, const LimbLines&, int64_t block_begin, int64_t block_end);

void grad_stats_scalar(const GradSource&, const GradStats&, int64_t, int64_t);
void grad_stats_avx2(const GradSource&, const GradStats&, int64_t, int64_t);
void grad_stats_avx512(const GradSource&, const GradStats&, int64_t, int64_t);
void split_rows_scalar(const GradSource&, const LimbLines&, int64_t, int64_t);
void split_rows_avx2(const GradSource&, const LimbLines&, int64_t, int64_t);
void split_rows_avx512(const GradSource&, const LimbLines&, int64_t, int64_t);
void split_columns_scalar(const GradSource&, const LimbLines&, int64_t, int64_t);
void split_columns_avx2(const GradSource&, const LimbLines&, int64_t, int64_t);
void split_columns_avx512(const GradSource&, const LimbLines&, int64_t, int64_t);

}  // namespace torchqat::cpu
