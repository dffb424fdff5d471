// CUDA tensors to the integer GEMM kernels.
#include "ops/torch_headers.h"

#include "cuda/int8_gemm.h"

#include <cstring>
#include <limits>

#include "cpu/kernels/panels.h"
#include "cuda/statistics.h"
#include "ops/linear_int8.h"

namespace torchqat::cuda {

at::Tensor read_scale(const at::Tensor& scale, bool learned) {
  const at::Tensor values = in_type(scale.detach(), at::kFloat).view(-1);
  return learned ? values.clamp_min(std::numeric_limits<float>::min()) : values;
}

InputQParams read_input_qparams(const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                                bool learned) {
  InputQParams q;
  q.scale = read_scale(scale, learned);
  q.zero_point = in_type(zero_point.detach(), at::kFloat).view(-1);
  if (at::isFloatingType(zero_point.scalar_type())) q.zero_point = q.zero_point.round().clamp(quant_min, quant_max);
  q.quant_min = quant_min;
  q.quant_max = quant_max;
  q.shift = quant_min < 0 ? 128 : 0;
  return q;
}

HeaderWords int8_header(int64_t n, int64_t k) {
  const auto words = packed_header_words(PackedFormat::linear_int8, kLinearInt8Version, {n, k, 0, 0, 0, 0});
  HeaderWords header;
  std::memcpy(header.words, words.data(), sizeof(header.words));
  return header;
}

at::Tensor empty_int8_weight(int64_t n, int64_t k, const at::TensorOptions& options) {
  return at::empty({kPackedHeaderBytes + linear_int8_payload(n, k).expect_int()}, options.dtype(at::kByte));
}

Int8Weight open_int8_weight(const char* op, const at::Tensor& packed_weight, int64_t n, int64_t k) {
  const int64_t bytes = kPackedHeaderBytes + linear_int8_payload(n, k).expect_int();
  TORCH_CHECK_VALUE(packed_weight.numel() == bytes, op, ": packed_weight must hold ", n, " x ", k, " codes in ", bytes,
                    " bytes for this input and weight_scale, got ", packed_weight.numel(), " bytes");
  Int8Weight w;
  w.owner = packed_weight.contiguous();
  if (reinterpret_cast<uintptr_t>(w.owner.const_data_ptr()) % 16 != 0) w.owner = w.owner.clone();
  w.n = n;
  w.k = k;
  w.k_padded = cpu::padded64(k);
  const uint8_t* data = w.owner.const_data_ptr<uint8_t>() + kPackedHeaderBytes;
  w.column_sums = reinterpret_cast<const int32_t*>(data);
  w.panels = reinterpret_cast<const int8_t*>(data + cpu::segment_count(k) * cpu::padded64(n) * 4);
  return w;
}

void pack_int8_weight(const at::Tensor& packed, const at::Tensor& weight, const at::Tensor& scale, int64_t quant_min,
                      int64_t quant_max, const at::Tensor& mask, Stream stream) {
  PackWeights p;
  p.weight = weight.const_data_ptr();
  p.n = weight.size(0);
  p.k = weight.size(1);
  if (scale.defined()) {
    p.type = float_type(weight.scalar_type());
    p.scale = scale.const_data_ptr<float>();
    p.stride = scale.numel() == 1 ? 0 : 1;
  }
  p.quant_min = static_cast<int32_t>(quant_min);
  p.quant_max = static_cast<int32_t>(quant_max);
  auto* data = packed.mutable_data_ptr<uint8_t>();
  p.header_at = data;
  p.header = int8_header(p.n, p.k);
  p.column_sums = reinterpret_cast<int32_t*>(data + kPackedHeaderBytes);
  p.panels = reinterpret_cast<int8_t*>(p.column_sums + cpu::segment_count(p.k) * cpu::padded64(p.n));
  if (mask.defined()) p.mask = mask.mutable_data_ptr<uint8_t>();
  pack_weights(p, stream);
}

namespace {

// From the data of a contiguous [rows, k].
InputQParams choose_input_qparams(const at::Tensor& matrix, bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric,
                                  Stream stream) {
  const int64_t per_row[] = {1, -1};
  const Blocks blocks = blocks_of(matrix, per_token ? at::IntArrayRef(per_row) : at::IntArrayRef());
  const int64_t entries = per_token ? matrix.size(0) : 1;
  InputQParams qparams;
  qparams.scale = at::empty({entries}, matrix.options().dtype(at::kFloat));
  qparams.zero_point = at::empty_like(qparams.scale);
  qparams.quant_min = quant_min;
  qparams.quant_max = quant_max;
  qparams.shift = quant_min < 0 ? 128 : 0;
  Statistics statistics;
  statistics.quant_min = quant_min;
  statistics.quant_max = quant_max;
  statistics.symmetric = symmetric;
  block_qparams(matrix, blocks, statistics, qparams.scale, at::empty({entries}, matrix.options().dtype(at::kInt)),
                qparams.zero_point, stream);
  return qparams;
}

// All but scale and zero point of the kernel's arguments, and the memory of its results.
QuantizeRows prepare_rows(const at::Tensor& input, int64_t rows, int64_t k, int64_t quant_min, int64_t quant_max,
                          const Int8Weight* weight, bool with_mask, QuantizedRows& out) {
  const auto options = input.options();
  const int64_t k_padded = cpu::padded64(k);
  out.codes = at::empty({rows, k_padded}, options.dtype(at::kByte));
  out.row_scale = at::empty({rows}, options.dtype(at::kFloat));
  out.row_zero_point = at::empty({rows}, options.dtype(at::kInt));
  if (with_mask) out.mask = at::empty({rows, (k + 7) / 8}, options.dtype(at::kByte));
  QuantizeRows q;
  q.input = input.const_data_ptr();
  q.type = float_type(input.scalar_type());
  q.rows = rows;
  q.columns = k;
  q.quant_min = static_cast<int32_t>(quant_min);
  q.quant_max = static_cast<int32_t>(quant_max);
  q.shift = quant_min < 0 ? 128 : 0;
  q.codes = out.codes.mutable_data_ptr<uint8_t>();
  q.padded_columns = k_padded;
  if (with_mask) q.mask = out.mask.mutable_data_ptr<uint8_t>();
  q.row_scale = out.row_scale.mutable_data_ptr<float>();
  q.row_zero_point = out.row_zero_point.mutable_data_ptr<int32_t>();
  if (weight != nullptr) {
    q.packed = weight->owner.const_data_ptr<uint8_t>();
    q.header = int8_header(weight->n, weight->k);
  }
  return q;
}

}  // namespace

QuantizedRows quantize_rows(const at::Tensor& input, int64_t rows, int64_t k, const InputQParams& qparams,
                            const Int8Weight* weight, bool with_mask, Stream stream) {
  QuantizedRows out;
  QuantizeRows q = prepare_rows(input, rows, k, qparams.quant_min, qparams.quant_max, weight, with_mask, out);
  q.scale = qparams.scale.const_data_ptr<float>();
  q.zero_point = qparams.zero_point.const_data_ptr<float>();
  q.stride = qparams.stride();
  cuda::quantize_rows(q, stream);
  return out;
}

QuantizedRows quantize_rows_dynamic(const at::Tensor& matrix, bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric,
                                    const Int8Weight* weight, Stream stream) {
  const int64_t rows = matrix.size(0), k = matrix.size(1);
  if (per_token) {
    QuantizedRows out;
    const QuantizeRows q = prepare_rows(matrix, rows, k, quant_min, quant_max, weight, /*with_mask=*/false, out);
    if (cuda::quantize_rows_dynamic(q, symmetric, stream)) return out;
  }
  const InputQParams qparams = choose_input_qparams(matrix, per_token, quant_min, quant_max, symmetric, stream);
  return quantize_rows(matrix, rows, k, qparams, weight, /*with_mask=*/false, stream);
}

at::Tensor int8_gemm(const QuantizedRows& x, int64_t rows, const Int8Weight& weight, const at::Tensor& weight_scale,
                     const std::optional<at::Tensor>& bias, at::ScalarType dtype, Stream stream) {
  at::Tensor y = at::empty({rows, weight.n}, x.codes.options().dtype(dtype));
  const at::Tensor float_bias = bias.has_value() ? in_type(bias->detach(), at::kFloat) : at::Tensor();
  Int8Gemm g;
  g.m = rows;
  g.n = weight.n;
  g.k_padded = weight.k_padded;
  g.a = x.codes.const_data_ptr<uint8_t>();
  g.panels = weight.panels;
  g.column_sums = weight.column_sums;
  g.row_scale = x.row_scale.const_data_ptr<float>();
  g.row_zero_point = x.row_zero_point.const_data_ptr<int32_t>();
  g.column_scale = weight_scale.const_data_ptr<float>();
  g.column_stride = weight_scale.numel() == 1 ? 0 : 1;
  if (float_bias.defined()) g.bias = float_bias.const_data_ptr<float>();
  g.out = y.mutable_data_ptr();
  g.out_type = float_type(dtype);
  cuda::int8_gemm(g, stream);
  return y;
}

}  // namespace torchqat::cuda
