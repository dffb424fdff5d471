// What surrounds a product of 8-bit floats: rows to codes, and sums to results. No torch, no word back to the host.
#pragma once
#include "cuda/kernels/affine.h"
#include "numerics/float_format.h"

namespace torchqat::cuda {

struct Float8RowArgs {
  const void* input = nullptr;   // [rows, columns]
  Float type = Float::f32;       // f32, bf16 or f16
  int64_t rows = 0, columns = 0;
  numerics::FloatFormat format = numerics::FloatFormat::e4m3fn;
  const float* scale = nullptr;  // stride apart: 0 or 1; or nullptr: max|x| of the row / the format's largest value
  int64_t stride = 0;
  uint8_t* codes = nullptr;      // [rows, columns]; NaN where the scale is invalid
  float* row_scale = nullptr;    // [rows], written where scale is absent
  uint8_t* mask = nullptr;       // one bit per element, set where the gradient passes; or absent
};
// False, and nothing is done, where columns are not whole packets of eight, or too many for a block's registers.
bool float8_rows(const Float8RowArgs& args, Stream stream);

// out = sums * (row scale * column scale) + bias, rounded once.
struct Float8Finish {
  int64_t m = 0, n = 0;
  const float* sums = nullptr;       // [m, n]
  const float* row_scale = nullptr;  // stride apart: 0 or 1
  int64_t row_stride = 0;
  const float* column_scale = nullptr;
  int64_t column_stride = 0;
  const float* bias = nullptr;       // [n] or absent
  void* out = nullptr;               // [m, n]
  Float out_type = Float::f32;       // f32, bf16 or f16
};
void float8_finish(const Float8Finish& args, Stream stream);

// 10 * major + minor of the current device, as the runtime has known it since it started: no wait.
int compute_capability();

}  // namespace torchqat::cuda
