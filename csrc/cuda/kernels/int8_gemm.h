// The integer linear layer on the device, in the layouts of the CPU (cpu/kernels/panels.h): rows to u8 codes, weights to panels,
// and the exact GEMM with its epilogue. No torch, no word back to the host: whatever is invalid gives NaN.
#pragma once
#include <cstdint>

#include "cuda/kernels/affine.h"

namespace torchqat::cuda {

// The 64 bytes every packed weight begins with, as words.
struct HeaderWords {
  uint32_t words[16];
};

struct QuantizeRows {
  const void* input = nullptr;        // [rows, columns]
  Float type = Float::f32;            // f32, bf16 or f16
  int64_t rows = 0, columns = 0;
  const float* scale = nullptr;       // stride apart: 0 or 1
  const float* zero_point = nullptr;  // integers, not shifted
  int64_t stride = 0;
  int32_t quant_min = 0, quant_max = 255;  // not shifted
  int32_t shift = 0;                  // added to give the stored (u8) form
  uint8_t* codes = nullptr;           // [rows, padded_columns]; bytes beyond columns become 0
  int64_t padded_columns = 0;         // a multiple of 64
  uint8_t* mask = nullptr;            // [rows, ceil(columns / 8)] or absent
  // What the GEMM reads. The scale is NaN where the row holds a NaN, its scale or zero point is invalid, or the header differs.
  float* row_scale = nullptr;         // [rows]
  int32_t* row_zero_point = nullptr;  // [rows], stored form
  const uint8_t* packed = nullptr;    // begins with a header that must equal `header`; or absent
  HeaderWords header{};
};
void quantize_rows(const QuantizeRows& args, Stream stream);
// Scale and zero point of each row from the row, which is read once; args.scale and zero_point are not used. False, and nothing is
// done, where rows are too long for a block's registers.
bool quantize_rows_dynamic(const QuantizeRows& args, bool symmetric, Stream stream);

struct PackWeights {
  const void* weight = nullptr;    // [n, k]: floats of `type`, or int8 codes where scale is absent
  Float type = Float::f32;
  const float* scale = nullptr;    // stride apart
  int64_t stride = 0;
  int32_t quant_min = -127, quant_max = 127;
  int64_t n = 0, k = 0;
  int8_t* panels = nullptr;        // [n_padded / 64][k_padded / 4][64][4]
  int32_t* column_sums = nullptr;  // [segments][n_padded]
  uint8_t* mask = nullptr;         // [n, ceil(k / 8)] or absent
  uint8_t* header_at = nullptr;    // where to write `header`; or absent
  HeaderWords header{};
};
void pack_weights(const PackWeights& args, Stream stream);

// out = in where the bit of its row is set ([rows, ceil(columns / 8)]), else 0; out may be narrower.
void mask_rows(const void* in, Float in_type, const uint8_t* mask, int64_t rows, int64_t columns, void* out, Float out_type,
               Stream stream);

struct Int8Gemm {
  int64_t m = 0, n = 0, k_padded = 0;
  const uint8_t* a = nullptr;            // [m, k_padded]
  const int8_t* panels = nullptr;
  const int32_t* column_sums = nullptr;
  const float* row_scale = nullptr;      // [m]
  const int32_t* row_zero_point = nullptr;
  const float* column_scale = nullptr;   // stride apart: 0 or 1
  int64_t column_stride = 0;
  const float* bias = nullptr;           // [n] or absent
  void* out = nullptr;                   // [m, n] of out_type
  Float out_type = Float::f32;
};
void int8_gemm(const Int8Gemm& args, Stream stream);

}  // namespace torchqat::cuda
