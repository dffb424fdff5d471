// Contract of the backward product dx = dy W with the weight in groups, W = q * s. The gradient's rows are 16-bit integers with
// a scale each. For each group they are multiplied by the group's scales, 16-bit integers too, and rounded to 16 bits; those
// products meet the codes q in exact integer sums, kGroupLines of n at a time, added in ascending order in float32. W itself is
// never rounded: its codes and scales enter as they are but for the scales' 16 bits.
#pragma once
#include <cstdint>

#include "cpu/kernels/gemm_grad.h"
#include "cpu/kernels/grad_limbs.h"
#include "numerics/config.h"

namespace torchqat::cpu {

// Columns of k in a block; a block lies in one group, and the last block of a group may hold fewer.
constexpr int64_t kBlockColumns = 32;
// 512 * 32767 * 128 fits in 32 bits; of half as many the operands fit in the first-level cache.
constexpr int64_t kGroupLines = 256;

struct GroupedCodes {
  const int8_t* codes = nullptr;  // [n, k], contiguous
  const float* scale = nullptr;   // [n, groups], > 0
  int64_t n = 0, k = 0, group = 1;

  TORCHQAT_INLINE int64_t groups() const { return (k + group - 1) / group; }
  TORCHQAT_INLINE int64_t blocks_of_group() const { return (group + kBlockColumns - 1) / kBlockColumns; }
  TORCHQAT_INLINE int64_t blocks() const {
    return k / group * blocks_of_group() + (k % group + kBlockColumns - 1) / kBlockColumns;
  }
};

// A gradient's rows as 16-bit integers, limb_value of each: out [m, ld], 0 from n to padded n. Rows [row_begin, row_end).
using RowsToS16Fn = void (*)(const GradSource&, const float* inverse, int16_t* out, int64_t ld, int64_t row_begin, int64_t row_end);
void rows_to_s16_scalar(const GradSource&, const float*, int16_t*, int64_t, int64_t, int64_t);
void rows_to_s16_avx2(const GradSource&, const float*, int16_t*, int64_t, int64_t, int64_t);
void rows_to_s16_avx512(const GradSource&, const float*, int16_t*, int64_t, int64_t, int64_t);

// The scales as 16-bit integers: out [groups][padded n], 0 beyond n, and what 1 of a group's products stands for: unit [groups].
// Groups [group_begin, group_end).
using ScalesToS16Fn = void (*)(const GroupedCodes&, int16_t* out, float* unit, int64_t group_begin, int64_t group_end);
void scales_to_s16_scalar(const GroupedCodes&, int16_t*, float*, int64_t, int64_t);
void scales_to_s16_avx2(const GroupedCodes&, int16_t*, float*, int64_t, int64_t);
void scales_to_s16_avx512(const GroupedCodes&, int16_t*, float*, int64_t, int64_t);

// Codes as panels: out, from block_begin on, [block][padded n / 2][32][2] 16-bit integers, 0 where there are none.
using CodesToBlocksFn = void (*)(const GroupedCodes&, int16_t* out, int64_t block_begin, int64_t block_end);
void codes_to_blocks_scalar(const GroupedCodes&, int16_t*, int64_t, int64_t);
void codes_to_blocks_avx2(const GroupedCodes&, int16_t*, int64_t, int64_t);
void codes_to_blocks_avx512(const GroupedCodes&, int16_t*, int64_t, int64_t);

// A GemmGradFn: a_high are the rows, panels the blocks; group, group_scales and group_units are set.
void gemm_groups_scalar(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_groups_avx2(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_groups_avxvnni(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_groups_avx512(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);

}  // namespace torchqat::cpu
