// Contract of a weight's gradient from few rows: dW[j, c] = factor * sum over rows i of (dy[i, j] * row_factor[i]) *
// (codes[i, c] - zero_point[i]), float32, by fused multiply-adds in ascending order of i. The result is nearly all the work
// then: neither limbs nor panels are made for it.
#pragma once
#include <cstdint>

#include "cpu/kernels/grad_limbs.h"

namespace torchqat::cpu {

constexpr int64_t kFewRows = 8;

struct FewRowsGrad {
  GradSource source;                    // m <= kFewRows; column_factor is not read
  const uint8_t* codes = nullptr;       // [m, ld_codes], k of them used; ld_codes: k padded to 64 at least
  int64_t ld_codes = 0;
  const int32_t* zero_point = nullptr;  // stride apart, 0 or 1
  int64_t zero_stride = 0;
  int64_t k = 0;
  float factor = 1.0f;
  const uint8_t* mask = nullptr;        // [n, ld_mask] or absent: where bit c of row j is 0 the gradient is 0
  int64_t ld_mask = 0;
  FloatType type = FloatType::float32;
  void* out = nullptr;                  // [n, k] of type
};

// Rows [begin, end) of the result.
using FewRowsGradFn = void (*)(const FewRowsGrad&, int64_t begin, int64_t end);
void grad_few_rows_scalar(const FewRowsGrad&, int64_t, int64_t);
void grad_few_rows_avx2(const FewRowsGrad&, int64_t, int64_t);
void grad_few_rows_avx512(const FewRowsGrad&, int64_t, int64_t);

}  // namespace torchqat::cpu
