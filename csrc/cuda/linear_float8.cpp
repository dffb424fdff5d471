// The 8-bit float layers on CUDA: rows to codes in one reading, then the product on FP8 tensor cores (capability 8.9 and above)
// through torch's _scaled_mm, elsewhere in a wider type that holds the codes exactly.
#include "ops/linear_float8.h"

#include "cuda/device.h"
#include "cuda/kernels/float8.h"
#include "ops/linear_int8.h"

namespace torchqat::cuda {
namespace {

Float8Rows float8_rows_op(const at::Tensor& input, const OptionalTensor& scale, std::string_view format, bool masked) {
  check_float8_rows(input, scale, format);
  const OnDevice device(input);
  const at::Tensor x = input.detach().contiguous();
  const int64_t columns = x.size(-1), rows = row_count(x).expect_int();
  cuda::Float8RowArgs a;
  at::Tensor codes = at::empty({rows, columns}, x.options().dtype(at::kByte));
  at::Tensor found = scale.has_value() ? in_type(scale->detach(), at::kFloat).view(-1) : at::empty({rows}, x.options().dtype(at::kFloat));
  at::Tensor mask = at::empty({masked ? (x.numel() + 7) / 8 : 0}, x.options().dtype(at::kByte));
  a.input = x.const_data_ptr();
  a.type = float_type(x.scalar_type());
  a.rows = rows;
  a.columns = columns;
  a.format = parse_float8("_float8_rows", "format", format);
  if (scale.has_value()) {
    a.scale = found.const_data_ptr<float>();
    a.stride = found.numel() == 1 ? 0 : 1;
  } else {
    a.row_scale = found.mutable_data_ptr<float>();
  }
  a.codes = codes.mutable_data_ptr<uint8_t>();
  if (masked) a.mask = mask.mutable_data_ptr<uint8_t>();
  if (!cuda::float8_rows(a, device.stream())) return float8_rows_by_ops(input, scale, format, masked);
  return {codes, found, mask};
}

// FP8 tensor cores take operands whose sizes are multiples of 16, and not e5m2 twice.
bool has_float8_product(const at::Tensor& codes, const at::Tensor& weight_codes, at::ScalarType type, at::ScalarType weight_type) {
  return compute_capability() >= 89 && codes.size(0) > 0 && codes.size(1) > 0 && codes.size(1) % 16 == 0 &&
         weight_codes.size(0) % 16 == 0 && !(type == at::kFloat8_e5m2 && weight_type == at::kFloat8_e5m2);
}

// Scales row by row within the product, for bfloat16 results without a bias: what torch has on sm_90 and sm_100.
bool scales_rows(const OptionalTensor& bias, at::ScalarType dtype) {
  const int generation = compute_capability() / 10;
  return !bias.has_value() && dtype == at::kBFloat16 && (generation == 9 || generation == 10);
}

// The codes' product in float32, by a type that holds them exactly.
at::Tensor wide_product(const at::Tensor& a, const at::Tensor& b) {
  if (a.is_cuda() && compute_capability() >= 80) return at::mm(a.to(at::kBFloat16), b.to(at::kBFloat16).t(), at::kFloat);
  return at::mm(a.to(at::kFloat), b.to(at::kFloat).t());
}

at::Tensor float8_multiply_op(const at::Tensor& codes, const at::Tensor& scale, std::string_view format,
                              const at::Tensor& weight_codes, const at::Tensor& weight_scale, std::string_view weight_format,
                              const OptionalTensor& bias, at::ScalarType dtype) {
  constexpr auto op = "_float8_multiply";
  const OnDevice device(codes);
  const auto type = float8_type(parse_float8(op, "format", format));
  const auto weight_type = float8_type(parse_float8(op, "weight_format", weight_format));
  const at::Tensor a = codes.contiguous().view(type), b = weight_codes.contiguous().view(weight_type);
  const int64_t m = a.size(0), n = b.size(0);
  const at::Tensor rows = in_type(scale, at::kFloat).view(-1), columns = in_type(weight_scale.detach(), at::kFloat).view(-1);
  at::Tensor sums;
  if (has_float8_product(a, b, type, weight_type)) {
    if (scales_rows(bias, dtype)) {
      return at::_scaled_mm(a, b.t(), rows.view({-1, 1}).expand({m, 1}).contiguous(), columns.view({1, -1}).expand({1, n}).contiguous(),
                            std::nullopt, std::nullopt, dtype);
    }
    const at::Tensor one = at::ones({}, rows.options());
    sums = at::_scaled_mm(a, b.t(), one, one, std::nullopt, std::nullopt, at::kFloat);
  } else {
    sums = wide_product(a, b);
  }
  at::Tensor y = at::empty({m, n}, codes.options().dtype(dtype));
  const at::Tensor float_bias = bias.has_value() ? in_type(bias->detach(), at::kFloat) : at::Tensor();
  Float8Finish f;
  f.m = m;
  f.n = n;
  f.sums = sums.const_data_ptr<float>();
  f.row_scale = rows.const_data_ptr<float>();
  f.row_stride = rows.numel() == 1 ? 0 : 1;
  f.column_scale = columns.const_data_ptr<float>();
  f.column_stride = columns.numel() == 1 ? 0 : 1;
  if (float_bias.defined()) f.bias = float_bias.const_data_ptr<float>();
  f.out = y.mutable_data_ptr();
  f.out_type = float_type(dtype);
  float8_finish(f, device.stream());
  return y;
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("_float8_rows", &float8_rows_op);
  m.impl("_float8_multiply", &float8_multiply_op);
}

}  // namespace
}  // namespace torchqat::cuda
