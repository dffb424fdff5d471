// Contract of turning an output gradient and codes into bfloat16 operands of the backward products, on CPUs with native
// bfloat16 products. Reductions are padded with 0 to a multiple of 64 values.
#pragma once
#include "cpu/kernels/grad_limbs.h"

namespace torchqat::cpu {

// out [m, padded n]: dy * column_factor, rows [row_begin, row_end).
void grad_rows_to_bf16(const GradSource&, uint16_t* out, int64_t row_begin, int64_t row_end);

// out [n, padded m]: dy * row_factor, transposed; blocks [block_begin, block_end) of 64 columns.
void grad_columns_to_bf16(const GradSource&, uint16_t* out, int64_t block_begin, int64_t block_end);

// Panels of codes [lines / 4][64][4] to pairs of bfloat16 [lines / 2][64][2], less a zero point: of each line, or one.
// |code - zero point| <= 255 is exact. Panels [panel_begin, panel_end) of `lines` lines each, a multiple of 64;
// zero points are read for the first `count` lines.
void panels_to_bf16(const uint8_t* panels, int64_t lines, int64_t count, const int32_t* zero_points, int32_t zero_point,
                    uint16_t* out, int64_t panel_begin, int64_t panel_end);

// Codes [n, k] times the scales [n, ceil(k / group)] of their groups, as panels with n as the reduction:
// [k / 64][padded n / 2][64][2]; group a multiple of 16, k of 64. Pairs [pair_begin, pair_end) of rows of n.
void groups_to_bf16_panels(const int8_t* codes, const float* scale, int64_t n, int64_t k, int64_t group, uint16_t* out,
                           int64_t pair_begin, int64_t pair_end);

}  // namespace torchqat::cpu
