// Contract of the u8 x s8 -> s32 GEMM with the epilogue of an integer layer:
//   acc[i, j] = sum over k of (a[i, k] - z[i]) * b[k, j], exact int32, per segment of 65536 converted and added in float32
//   y[i, j]   = acc * (a_scale[i] * b_scale[j]) + bias[j], each operation rounded once
// Every path gives the same bits, and a row's bits do not depend on the other rows.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

enum class GemmOutput : int { float32, codes };

struct GemmU8S8 {
  int64_t m = 0, n = 0, k_padded = 0;
  const uint8_t* a = nullptr;          // [m, lda]
  int64_t lda = 0;                     // >= k_padded, a multiple of 64
  const int8_t* panels = nullptr;      // panels.h
  const int32_t* column_sums = nullptr;  // [segments, n_padded]: sums of b over each segment
  const int32_t* a_zero_point = nullptr;  // stored (u8) form; a_stride apart
  const float* a_scale = nullptr;
  int64_t a_stride = 0;                // 0: one for all rows, 1: one per row
  const float* b_scale = nullptr;      // [n] or one
  int64_t b_stride = 0;
  const float* bias = nullptr;         // [n] or absent
  const uint8_t* nan_rows = nullptr;   // [m] or absent: where not 0, y is NaN
  GemmOutput output = GemmOutput::float32;
  void* out = nullptr;                 // float32 or uint8 [m, ldo]
  int64_t ldo = 0;
  // For codes: clamp(rint(y / scale) + zero_point), in stored (u8) form; relu is applied to y first.
  float out_scale = 1.0f, out_zero_point = 0.0f, out_min = 0.0f, out_max = 255.0f;
  bool relu = false;
};

// Computes rows [row_begin, row_end) of panels [panel_begin, panel_end).
using GemmU8S8Fn = void (*)(const GemmU8S8&, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end);

void gemm_u8s8_scalar(const GemmU8S8&, int64_t, int64_t, int64_t, int64_t);
void gemm_u8s8_avx2(const GemmU8S8&, int64_t, int64_t, int64_t, int64_t);
void gemm_u8s8_avxvnni(const GemmU8S8&, int64_t, int64_t, int64_t, int64_t);
void gemm_u8s8_avx512(const GemmU8S8&, int64_t, int64_t, int64_t, int64_t);
void gemm_u8s8_amx(const GemmU8S8&, int64_t, int64_t, int64_t, int64_t);

}  // namespace torchqat::cpu
