// From tensors to the integer GEMM kernels: quantisation parameters read and checked, packed weights opened, work split
// among threads. Shared by the deployed and the training linear layers.
#pragma once
#include "cpu/kernels/gemm_u8s8.h"
#include "cpu/kernels/pack_s8.h"
#include "cpu/kernels/quantize_rows.h"
#include "ops/torch_headers.h"

namespace torchqat {

cpu::FloatType float_type(at::ScalarType dtype);

// Scale (float32) and zero point (int32, stored form), one or one per row; stride 0 or 1 accordingly.
struct InputQParams {
  at::Tensor scale, zero_point;
  int64_t stride = 0;
  int64_t shift = 0;  // added to a code to give its stored (u8) form
  int64_t quant_min = 0, quant_max = 255;  // stored form
};

// Refuses a scale that is not finite and > 0 and a zero point outside the range; a floating zero point is rounded and
// clamped instead, and `learned` clamps the scale to the smallest normal number.
InputQParams read_input_qparams(const char* op, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                                int64_t quant_max, bool learned = false);

// A float32 tensor of the scale's values, each checked to be finite and > 0.
at::Tensor read_scale(const char* op, const char* name, const at::Tensor& scale, bool learned = false);

// An opened packed weight. `owner` keeps the memory.
struct Int8Weight {
  at::Tensor owner;
  int64_t n = 0, k = 0, k_padded = 0;
  const int32_t* column_sums = nullptr;
  const int8_t* panels = nullptr;
};

at::Tensor make_int8_weight(int64_t n, int64_t k, bool lasting = false);
Int8Weight read_int8_weight(const char* op, const at::Tensor& packed_weight);
// int8 codes [n, k].
at::Tensor pack_int8_weight(const at::Tensor& codes, bool lasting = false);
// Where to pack to.
cpu::PackedS8 int8_weight_target(const at::Tensor& packed_weight, int64_t n, int64_t k);

// Rows as codes with the flags of rows that hold a NaN.
struct QuantizedRows {
  at::Tensor codes;     // uint8 [rows, k_padded]
  at::Tensor nan_rows;  // uint8 [rows]
  at::Tensor mask;      // uint8 [rows, ceil(k / 8)], if asked for
};

// input: contiguous [rows, k].
QuantizedRows quantize_rows(const at::Tensor& input, int64_t rows, int64_t k, const InputQParams& qparams, bool with_mask);

// y [rows, n] of dtype, from codes and weight. x.nan_rows may be undefined.
at::Tensor int8_gemm(const QuantizedRows& x, int64_t rows, const InputQParams& qparams, const Int8Weight& weight,
                     const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias, at::ScalarType dtype);

// Below this many multiplications a second thread costs more than it brings.
constexpr int64_t kSerialWork = 1 << 21;

// Calls fn(row_begin, row_end, panel_begin, panel_end) over rows x panels, with blocks of rows that stay in cache.
void for_each_block(int64_t rows, int64_t panels, int64_t row_bytes,
                    const std::function<void(int64_t, int64_t, int64_t, int64_t)>& fn, int64_t serial_work = kSerialWork);

}  // namespace torchqat
