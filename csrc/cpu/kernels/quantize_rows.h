// Contract of quantising the rows of a matrix to u8 codes for the integer GEMM (or to s8, for weights), with the straight-through mask and a
// NaN flag of each row from the same pass. Stored codes, zero points and ranges are in u8 form: signed grids are
// shifted by 128 before they come here.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

enum class FloatType : int { float32, bfloat16, float16 };

struct QuantizeRows {
  const void* input = nullptr;  // [rows, ld_input] of type
  FloatType type = FloatType::float32;
  int64_t columns = 0, ld_input = 0;
  const float* scale = nullptr;         // stride apart
  const int32_t* zero_point = nullptr;  // stored form, or absent: 0
  int64_t stride = 0;                   // 0: one for all rows, 1: one per row
  // Where given, each row's own range decides instead, as choose_qparams says it, and what it gives is left here.
  float* found_scale = nullptr;
  int32_t* found_zero_point = nullptr;  // stored form
  bool symmetric = false;
  int32_t shift = 0;                    // of the stored form: 128 for signed codes
  float quant_min = 0.0f, quant_max = 255.0f;  // stored form
  uint8_t* codes = nullptr;             // [rows, ld_codes]; bytes beyond columns become 0
  int64_t ld_codes = 0;
  bool signed_codes = false;            // the codes are s8, and the range is not in stored form
  uint8_t* mask = nullptr;              // [rows, ld_mask] or absent: bit j of a row is 1 where x lies within the grid
  int64_t ld_mask = 0;
  uint8_t* nan_rows = nullptr;          // [rows] or absent: 1 where the row holds a NaN
};

using QuantizeRowsFn = void (*)(const QuantizeRows&, int64_t row_begin, int64_t row_end);

void quantize_rows_scalar(const QuantizeRows&, int64_t, int64_t);
void quantize_rows_avx2(const QuantizeRows&, int64_t, int64_t);
void quantize_rows_avx512(const QuantizeRows&, int64_t, int64_t);

}  // namespace torchqat::cpu
