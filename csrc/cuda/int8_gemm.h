// From CUDA tensors to the integer GEMM: qparams, rows, packed weights. Shared by the deployed and the training linear layers.
#pragma once
#include "cuda/device.h"
#include "cuda/kernels/int8_gemm.h"
#include "ops/packed_header.h"

namespace torchqat::cuda {

// Scale and zero point of the input in float32, one or one per row.
struct InputQParams {
  at::Tensor scale, zero_point;
  int64_t quant_min = 0, quant_max = 255, shift = 0;
  int64_t stride() const { return scale.numel() == 1 ? 0 : 1; }
};
// A floating zero point is rounded and clamped; `learned` clamps the scale to the smallest normal number.
InputQParams read_input_qparams(const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                                bool learned = false);
at::Tensor read_scale(const at::Tensor& scale, bool learned = false);

struct Int8Weight {
  at::Tensor owner;
  int64_t n = 0, k = 0, k_padded = 0;
  const int32_t* column_sums = nullptr;
  const int8_t* panels = nullptr;
};
HeaderWords int8_header(int64_t n, int64_t k);
// Not initialised.
at::Tensor empty_int8_weight(int64_t n, int64_t k, const at::TensorOptions& options);
// Sizes come from the other arguments, because the header lies on the device; quantize_rows compares it there.
Int8Weight open_int8_weight(const char* op, const at::Tensor& packed_weight, int64_t n, int64_t k);
// From floats with a scale per column (or one), or from int8 codes where scale is undefined. mask: uint8 [n, ceil(k / 8)] or
// undefined.
void pack_int8_weight(const at::Tensor& packed, const at::Tensor& weight, const at::Tensor& scale, int64_t quant_min,
                      int64_t quant_max, const at::Tensor& mask, Stream stream);

struct QuantizedRows {
  at::Tensor codes;                      // uint8 [rows, k_padded]
  at::Tensor row_scale, row_zero_point;  // float32, int32 [rows]
  at::Tensor mask;                       // uint8 [rows, ceil(k / 8)], if asked for
};
// input: contiguous [rows, k] of float32, bfloat16 or float16. weight: whose header must fit, or null.
QuantizedRows quantize_rows(const at::Tensor& input, int64_t rows, int64_t k, const InputQParams& qparams,
                            const Int8Weight* weight, bool with_mask, Stream stream);
// The same with scales from the data, per row (each is read once, up to 8192 columns) or for all of the matrix.
QuantizedRows quantize_rows_dynamic(const at::Tensor& matrix, bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric,
                                    const Int8Weight* weight, Stream stream);

// [rows, n] of dtype.
at::Tensor int8_gemm(const QuantizedRows& x, int64_t rows, const Int8Weight& weight, const at::Tensor& weight_scale,
                     const std::optional<at::Tensor>& bias, at::ScalarType dtype, Stream stream);

}  // namespace torchqat::cuda
