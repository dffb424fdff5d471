// Rows to u8 codes, compiled once per instruction set.
#pragma once
#include "cpu/kernels/quantize_rows.h"
#include "cpu/kernels/quantize_span_generic.h"

namespace torchqat::cpu {
namespace {

template <typename T, typename Code>
void quantize_rows_of(const QuantizeRows& q, int64_t row_begin, int64_t row_end) {
  for (int64_t i = row_begin; i < row_end; ++i) {
    const float zero_point = q.zero_point != nullptr ? static_cast<float>(q.zero_point[i * q.stride]) : 0.0f;
    const Grid grid(q.scale[i * q.stride], zero_point, q.quant_min, q.quant_max);
    const T* x = static_cast<const T*>(q.input) + i * q.ld_input;
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
