// Tensors to integer GEMM kernels.
#include "cpu/int8_gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/isa.h"
#include "cpu/kernels/panels.h"
#include "cpu/output.h"
#include "cpu/scalar_value.h"
#include "ops/linear_int8.h"
#include "ops/packed_header.h"

namespace torchqat {
namespace {

// A block of rows of this size stays in the second-level cache while the panels pass.
constexpr int64_t kBlockBytes = 1 << 20;
// A multiple of every path's rows per tile (6 and 32).
constexpr int64_t kBlockRows = 96;

}  // namespace

cpu::FloatType float_type(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? cpu::FloatType::bfloat16
         : dtype == at::kHalf   ? cpu::FloatType::float16
                                : cpu::FloatType::float32;
}

// Normal, positive and finite, on raw bits, many at a time: a weight in groups has as many scales as a small layer weights.
static bool all_normal(const float* values, int64_t count) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, 4);
    bad |= static_cast<uint32_t>(bits - 0x00800000u >= 0x7f000000u);
  }
  return bad == 0;
}

at::Tensor read_scale(const char* op, const char* name, const at::Tensor& scale, bool learned) {
  // The usual scale is taken as it is: each ATen call would cost as much as a small layer's product.
  const bool ready = scale.scalar_type() == at::kFloat && scale.is_contiguous();
  at::Tensor values = ready ? scale : scale.detach().to(at::kFloat).contiguous();
  const float* s = values.const_data_ptr<float>();
  if (all_normal(s, values.numel())) return values;
  if (learned && std::any_of(s, s + values.numel(), [](float v) { return v < std::numeric_limits<float>::min(); })) {
    values = values.detach().clamp_min(std::numeric_limits<float>::min());
    s = values.const_data_ptr<float>();
  }
  for (int64_t i = 0; i < values.numel(); ++i) {
    TORCH_CHECK_VALUE(std::isfinite(s[i]) && s[i] > 0, op, ": ", name, " must be finite and > 0, got ", s[i], " at ", i);
  }
  return values;
}

namespace {

template <typename T>
void store_zero_points(const char* op, const T* z, int64_t count, int64_t quant_min, int64_t quant_max, int64_t shift,
                       int32_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    TORCH_CHECK_VALUE(quant_min <= z[i] && z[i] <= quant_max, op, ": input_zero_point must lie within [", quant_min, ", ",
                      quant_max, "], got ", z[i], " at ", i);
    out[i] = static_cast<int32_t>(z[i] + shift);
  }
}

}  // namespace

InputQParams read_input_qparams(const char* op, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                                int64_t quant_max, bool learned) {
  InputQParams q;
  q.shift = quant_min < 0 ? 128 : 0;
  q.quant_min = quant_min + q.shift;
  q.quant_max = quant_max + q.shift;
  q.scale = read_scale(op, "input_scale", scale, learned);
  q.stride = q.scale.numel() == 1 ? 0 : 1;
  const int64_t count = q.scale.numel();
  q.zero_point = cpu::result_of({count}, at::kInt);
  auto* out = q.zero_point.mutable_data_ptr<int32_t>();
  if (at::isFloatingType(zero_point.scalar_type())) {
    const at::Tensor rounded = zero_point.detach().to(at::kFloat).round().clamp(quant_min, quant_max).contiguous();
    const float* z = rounded.const_data_ptr<float>();
    for (int64_t i = 0; i < count; ++i) {
      TORCH_CHECK_VALUE(!std::isnan(z[i]), op, ": input_zero_point must not be NaN, got NaN at ", i);
      out[i] = static_cast<int32_t>(z[i]) + static_cast<int32_t>(q.shift);
    }
  } else if (zero_point.scalar_type() == at::kInt && zero_point.is_contiguous()) {
    store_zero_points(op, zero_point.const_data_ptr<int32_t>(), count, quant_min, quant_max, q.shift, out);
  } else {
    const at::Tensor wide = zero_point.to(at::kLong).contiguous();
    store_zero_points(op, wide.const_data_ptr<int64_t>(), count, quant_min, quant_max, q.shift, out);
  }
  return q;
}

at::Tensor make_int8_weight(int64_t n, int64_t k, bool lasting) {
  return make_packed(PackedFormat::linear_int8, kLinearInt8Version, {n, k, 0, 0, 0, 0},
                     linear_int8_payload(n, k).expect_int(), lasting);
}

Int8Weight read_int8_weight(const char* op, const at::Tensor& packed_weight) {
  const PackedSizes sizes =
      read_packed(op, "packed_weight", packed_weight, PackedFormat::linear_int8, kLinearInt8Version);
  Int8Weight w;
  w.owner = packed_weight;
  w.n = sizes[0];
  w.k = sizes[1];
  TORCH_CHECK_VALUE(w.n >= 0 && w.k >= 0 &&
                        packed_weight.numel() == kPackedHeaderBytes + linear_int8_payload(w.n, w.k).expect_int(),
                    op, ": packed_weight must hold ", w.n, " x ", w.k, " codes, got ", packed_weight.numel(), " bytes");
  w.k_padded = cpu::padded64(w.k);
  const uint8_t* data = packed_weight.const_data_ptr<uint8_t>() + kPackedHeaderBytes;
  const int64_t sum_bytes = cpu::segment_count(w.k) * cpu::padded64(w.n) * 4;
  // A sliced buffer may begin anywhere; sums and panels are read as words.
  TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(data) % 4 == 0, op, ": packed_weight must be aligned to 4 bytes");
  w.column_sums = reinterpret_cast<const int32_t*>(data);
  w.panels = reinterpret_cast<const int8_t*>(data + sum_bytes);
  return w;
}

at::Tensor pack_int8_weight(const at::Tensor& codes, bool lasting) {
  const at::Tensor source = codes.contiguous();
  const int64_t n = codes.size(0), k = codes.size(1);
  at::Tensor packed = make_int8_weight(n, k, lasting);
  const cpu::PackedS8 target = int8_weight_target(packed, n, k);
  const auto kernel = cpu::select<cpu::PackS8Fn>(cpu::pack_s8_scalar, cpu::pack_s8_avx2, cpu::pack_s8_avx512);
  const int8_t* data = source.const_data_ptr<int8_t>();
  at::parallel_for(0, cpu::padded64(n) / cpu::kPanelColumns, 1,
                   [&](int64_t begin, int64_t end) { kernel(data, target, begin, end); });
  return packed;
}

cpu::PackedS8 int8_weight_target(const at::Tensor& packed_weight, int64_t n, int64_t k) {
  uint8_t* data = packed_weight.mutable_data_ptr<uint8_t>() + kPackedHeaderBytes;
  const int64_t sum_bytes = cpu::segment_count(k) * cpu::padded64(n) * 4;
  return {n, k, reinterpret_cast<int8_t*>(data + sum_bytes), reinterpret_cast<int32_t*>(data)};
}

void for_each_block(int64_t rows, int64_t panels, int64_t row_bytes,
                    const std::function<void(int64_t, int64_t, int64_t, int64_t)>& fn, int64_t serial_work) {
  if (rows == 0 || panels == 0) return;
  const int64_t threads = at::get_num_threads();
  if (threads == 1 || rows * panels * cpu::kPanelColumns * row_bytes <= serial_work) {
    const int64_t block = std::max(kBlockRows, kBlockBytes / std::max<int64_t>(row_bytes, 1) / kBlockRows * kBlockRows);
    for (int64_t i = 0, end; i < rows; i = end) {
      end = rows - i < block + block / 2 ? rows : i + block;  // a small rest is no reason to read all panels again
      fn(i, end, 0, panels);
    }
    return;
  }
  int64_t block = std::max(kBlockRows, kBlockBytes / std::max<int64_t>(row_bytes, 1) / kBlockRows * kBlockRows);
  if (panels < 4 * threads) block = kBlockRows;
  const int64_t blocks = (rows + block - 1) / block;
  at::parallel_for(0, blocks * panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end;) {
      const int64_t b = item / panels, p = item % panels, count = std::min(panels - p, end - item);
      fn(b * block, std::min(rows, (b + 1) * block), p, p + count);
      item += count;
    }
  });
}

QuantizedRows quantize_rows(const at::Tensor& input, int64_t rows, int64_t k, const InputQParams& qparams, bool with_mask) {
  QuantizedRows out;
  const int64_t k_padded = cpu::padded64(k), mask_bytes = (k + 7) / 8;
  out.codes = cpu::result_of({rows, k_padded}, at::kByte);
  out.nan_rows = cpu::result_of({rows}, at::kByte);
  if (with_mask) out.mask = cpu::result_of({rows, mask_bytes}, at::kByte);
  cpu::QuantizeRows q;
  q.input = input.const_data_ptr();
  q.type = float_type(input.scalar_type());
  q.columns = q.ld_input = k;
  q.scale = qparams.scale.const_data_ptr<float>();
  q.zero_point = qparams.zero_point.const_data_ptr<int32_t>();
  q.stride = qparams.stride;
  q.quant_min = static_cast<float>(qparams.quant_min);
  q.quant_max = static_cast<float>(qparams.quant_max);
  q.codes = out.codes.mutable_data_ptr<uint8_t>();
  q.ld_codes = k_padded;
  q.nan_rows = out.nan_rows.mutable_data_ptr<uint8_t>();
  if (with_mask) {
    q.mask = out.mask.mutable_data_ptr<uint8_t>();
    q.ld_mask = mask_bytes;
  }
  const auto kernel = cpu::select<cpu::QuantizeRowsFn>(cpu::quantize_rows_scalar, cpu::quantize_rows_avx2,
                                                       cpu::quantize_rows_avx512);
  at::parallel_for(0, rows, std::max<int64_t>(1, 32768 / std::max<int64_t>(k, 1)),
                   [&](int64_t begin, int64_t end) { kernel(q, begin, end); });
  return out;
}

at::Tensor int8_gemm(const QuantizedRows& x, int64_t rows, const InputQParams& qparams, const Int8Weight& weight,
                     const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias, at::ScalarType dtype) {
  at::Tensor y = cpu::result_of({rows, weight.n}, at::kFloat);
  cpu::GemmU8S8 g;
  g.m = rows;
  g.n = weight.n;
  g.k_padded = weight.k_padded;
  g.a = x.codes.const_data_ptr<uint8_t>();
  g.lda = weight.k_padded;
  g.panels = weight.panels;
  g.column_sums = weight.column_sums;
  g.a_zero_point = qparams.zero_point.const_data_ptr<int32_t>();
  g.a_scale = qparams.scale.const_data_ptr<float>();
  g.a_stride = qparams.stride;
  g.b_scale = weight_scale.const_data_ptr<float>();
  g.b_stride = weight_scale.numel() == 1 ? 0 : 1;
  const at::Tensor float_bias = bias.has_value() ? cpu::float_values(*bias) : at::Tensor();
  if (float_bias.defined()) g.bias = float_bias.const_data_ptr<float>();
  if (x.nan_rows.defined()) g.nan_rows = x.nan_rows.const_data_ptr<uint8_t>();
  g.out = y.mutable_data_ptr();
  g.ldo = weight.n;
  const auto kernel = cpu::select<cpu::GemmU8S8Fn>(cpu::gemm_u8s8_scalar, cpu::gemm_u8s8_avx2, cpu::gemm_u8s8_avxvnni, cpu::gemm_u8s8_avx512,
                                                   cpu::gemm_u8s8_amx);
  // Each thread has just packed the panels that it will multiply: from another's cache they would come at a crawl.
  for_each_block(rows, cpu::padded64(weight.n) / cpu::kPanelColumns, weight.k_padded,
                 [&](int64_t r0, int64_t r1, int64_t p0, int64_t p1) { kernel(g, r0, r1, p0, p1); }, kSerialWork / 2);
  return dtype == at::kFloat ? y : y.to(dtype);
}

}  // namespace torchqat
