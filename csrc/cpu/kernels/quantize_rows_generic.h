// Rows to u8 codes, compiled once per instruction set.
#pragma once
#include "cpu/kernels/quantize_rows.h"
#include "cpu/kernels/quantize_span_generic.h"
#include "cpu/kernels/range_generic.h"

namespace torchqat::cpu {
namespace {

template <typename T>
TORCHQAT_INLINE void find_grid(const QuantizeRows& q, const T* x, float* scale, int32_t* zero_point) {
  float lo = std::numeric_limits<float>::infinity(), hi = -lo;
  one_range<Vec>(x, q.columns, &lo, &hi);
  const auto shift = static_cast<float>(q.shift);
  const auto found = numerics::qparams<Vec>(Vec(lo), Vec(hi), q.quant_min - shift, q.quant_max - shift, q.symmetric);
  float s[Vec::size];
  int32_t z[Vec::size];
  found.scale.store(s);
  found.zero_point.store(z);
  *scale = s[0];
  *zero_point = z[0] + q.shift;
}

template <typename T, typename Code>
void quantize_rows_of(const QuantizeRows& q, int64_t row_begin, int64_t row_end) {
  for (int64_t i = row_begin; i < row_end; ++i) {
    const T* x = static_cast<const T*>(q.input) + i * q.ld_input;
    if (q.found_scale != nullptr) find_grid(q, x, q.found_scale + i, q.found_zero_point + i);
    const float* scale = q.found_scale != nullptr ? q.found_scale + i : q.scale + i * q.stride;
    const int32_t* given = q.found_scale != nullptr ? q.found_zero_point + i : q.zero_point != nullptr ? q.zero_point + i * q.stride : nullptr;
    const Grid grid(*scale, given != nullptr ? static_cast<float>(*given) : 0.0f, q.quant_min, q.quant_max);
    uint8_t* codes = q.codes + i * q.ld_codes;
    uint8_t* mask = q.mask != nullptr ? q.mask + i * q.ld_mask : nullptr;
    const bool nan = quantize_span(x, q.columns, grid, reinterpret_cast<Code*>(codes), mask);
    if (q.nan_rows != nullptr) q.nan_rows[i] = nan ? 1 : 0;
    if (q.ld_codes > q.columns) std::memset(codes + q.columns, 0, static_cast<size_t>(q.ld_codes - q.columns));
  }
}

template <typename T>
TORCHQAT_INLINE void quantize_rows_from(const QuantizeRows& q, int64_t row_begin, int64_t row_end) {
  if (q.signed_codes) return quantize_rows_of<T, int8_t>(q, row_begin, row_end);
  quantize_rows_of<T, uint8_t>(q, row_begin, row_end);
}

TORCHQAT_INLINE void run_quantize_rows(const QuantizeRows& q, int64_t row_begin, int64_t row_end) {
  switch (q.type) {
    case FloatType::float32: return quantize_rows_from<float>(q, row_begin, row_end);
    case FloatType::bfloat16: return quantize_rows_from<Bf16>(q, row_begin, row_end);
    case FloatType::float16: return quantize_rows_from<Half>(q, row_begin, row_end);
  }
}

}  // namespace
}  // namespace torchqat::cpu
