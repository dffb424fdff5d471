// Contract of the backward products: C[i, j] = sum over r of A[i, r] * B[r, j], float32, with B in panels (panels.h).
// Limbs: A in two planes of s8 limbs with a scale per row, B u8; exact integer sums per segment of 65536, minus the row's
// correction. bfloat16: A and B pairs of bfloat16, 4 bytes wide where codes have 4, float32 sums in ascending order. A weight
// in groups: see gemm_groups.h. Where the mask's bit is 0, C is 0.
#pragma once
#include <cstdint>

#include "cpu/kernels/quantize_rows.h"

namespace torchqat::cpu {

struct GemmGrad {
  int64_t m = 0, n = 0;
  int64_t reduction_bytes = 0;       // of a row of A: padded to 64; s8: one byte, bfloat16: two bytes per r
  int64_t used_bytes = 0;            // limbs: those that can differ from 0
  const uint8_t* a_high = nullptr;   // [m, lda] bytes; bfloat16: the only plane
  const uint8_t* a_low = nullptr;
  int64_t lda = 0;
  const uint8_t* panels = nullptr;   // [panels from first_panel on][reduction_bytes / 4][64][4]
  int64_t first_panel = 0;
  const int32_t* corrections = nullptr;  // limbs: [segments][2][m]
  const float* row_scale = nullptr;  // [m] or absent: 1
  float factor = 1.0f;               // of all of C
  int64_t group = 0;                 // a weight in groups: columns in one
  const int16_t* group_scales = nullptr;  // [groups][reduction_bytes / 2]
  const float* group_units = nullptr;     // [groups]
  const uint8_t* mask = nullptr;     // [m, ld_mask] or absent: bit j of a row
  int64_t ld_mask = 0;
  FloatType type = FloatType::float32;
  void* out = nullptr;               // [m, ldo] of type
  int64_t ldo = 0;
};

// Rows [row_begin, row_end) of panels [panel_begin, panel_end).
using GemmGradFn = void (*)(const GemmGrad&, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end);

void gemm_limbs_scalar(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_limbs_avx2(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_limbs_avxvnni(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_limbs_avx512(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_limbs_amx(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_bf16_avx512bf16(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);
void gemm_bf16_amx(const GemmGrad&, int64_t, int64_t, int64_t, int64_t);

}  // namespace torchqat::cpu
