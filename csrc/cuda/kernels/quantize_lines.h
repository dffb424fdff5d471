// Rows of floats to rows of codes that lie without padding, each row with its own bits: what a training layer keeps for backward.
#pragma once
#include "cuda/kernels/affine.h"

namespace torchqat::cuda {

struct QuantizeLines {
  const void* input = nullptr;        // [rows, columns]
  Float type = Float::f32;            // f32, bf16 or f16
  int64_t rows = 0, columns = 0;
  // Scale of (row, column): [row * scale_stride + column / group]; the zero point's alike, not shifted, or absent: 0.
  const float* scale = nullptr;
  const float* zero_point = nullptr;
  int64_t scale_stride = 0, zero_point_stride = 0, group = 1;
  int32_t quant_min = 0, quant_max = 255;  // not shifted
  int32_t shift = 0;                  // added to give the stored form; 0 of a signed grid: two's complement
  uint8_t* codes = nullptr;           // [rows, columns], bytes
  uint8_t* mask = nullptr;            // [rows, ceil(columns / 8)], or absent
  float* nan_rows = nullptr;          // [rows], set to NaN where a value of the row is NaN; or absent
};
void quantize_lines(const QuantizeLines& args, Stream stream);

}  // namespace torchqat::cuda
