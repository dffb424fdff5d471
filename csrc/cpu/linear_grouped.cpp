// Deployed linear layers on weights in groups, on the CPU.
#include "ops/linear_grouped.h"

#include "cpu/grouped_gemm.h"
#include "cpu/isa.h"
#include "cpu/large_pages.h"
#include "ops/linear_int8.h"
#include "ops/packed_header.h"
#include "ops/packing.h"

namespace torchqat {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor linear_grouped_pack_cpu(const at::Tensor& codes, int64_t bits, int64_t group_size) {
  check_linear_grouped_pack(codes, bits, group_size);
  const int64_t low = codes.scalar_type() == at::kChar ? -(int64_t{1} << (bits - 1)) : 0;
  return pack_grouped(codes_as_bytes("linear_grouped_pack", codes, low, low + (int64_t{1} << bits) - 1), bits, group_size,
                      true);
}

at::Tensor linear_grouped_unpack_cpu(const at::Tensor& packed_weight) {
  const GroupedWeight weight = read_grouped_weight("linear_grouped_unpack", packed_weight);
  const cpu::GroupedLayout& w = weight.layout;
  at::Tensor codes = at::empty({w.n, w.k}, packed_weight.options().dtype(weight.is_signed ? at::kChar : at::kByte));
  auto* out = static_cast<uint8_t*>(codes.mutable_data_ptr());
  at::parallel_for(0, w.panels, 1,
                   [&](int64_t begin, int64_t end) { cpu::grouped_unpack(w, weight.data, out, begin, end); });
  return codes;
}

at::Tensor linear_grouped_pack_scale_cpu(const at::Tensor& weight_scale) {
  constexpr auto op = "linear_grouped_pack_scale";
  check_weight_scale_form(op, weight_scale);
  check_scale_values(op, "weight_scale", weight_scale);
  const auto keep = [](const at::Tensor& scale) {
    const int64_t bytes = scale.numel() * static_cast<int64_t>(scale.element_size());
    at::Tensor out = empty_on_large_pages(bytes).view(scale.scalar_type()).view(scale.sizes());
    return out.copy_(scale);
  };
  const at::Tensor scale = weight_scale.detach();
  if (scale.dim() == 3) return keep(scale);
  const int64_t n = scale.size(0), groups = scale.size(1);
  if (n % cpu::kGroupedColumns != 0) return keep(scale.t()).t();
  return keep(scale.reshape({n / cpu::kGroupedColumns, cpu::kGroupedColumns, groups}).transpose(1, 2));
}

GroupedWeight open_weight(const char* op, const at::Tensor& input, const at::Tensor& packed_weight) {
  TORCH_CHECK_VALUE(input.device().is_cpu(), op, ": input must be on the CPU, got ", input.device());
  const GroupedWeight weight = read_grouped_weight(op, packed_weight);
  TORCH_CHECK_VALUE(input.size(-1) == weight.layout.k, op, ": input must have shape [..., ", weight.layout.k,
                    "] for this packed_weight, got ", input.sizes());
  return weight;
}

void check_grouped_int8(const char* op, const GroupedWeight& weight) {
  TORCH_CHECK_VALUE(weight.is_signed, op, ": packed_weight must hold signed codes; unsigned ones are for linear_weight_only");
  TORCH_CHECK_VALUE(weight.layout.group_padded <= kLongestIntegerGroup, op, ": groups of packed_weight must be at most ",
                    kLongestIntegerGroup, " long, got ", weight.layout.group);
}

at::Tensor linear_grouped_int8_cpu(const at::Tensor& input, const at::Tensor& packed_weight,
                                   const at::Tensor& weight_scale, const OptionalTensor& bias,
                                   const at::Tensor& input_scale, const at::Tensor& input_zero_point, int64_t quant_min,
                                   int64_t quant_max) {
  constexpr auto op = "linear_grouped_int8";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_byte_range(op, "", quant_min, quant_max);
  check_input_qparams(op, input, input_scale, input_zero_point);
  const GroupedWeight weight = open_weight(op, input, packed_weight);
  check_grouped_int8(op, weight);
  const GroupedScaleView scale = view_weight_scale(op, weight_scale, weight.layout);
  const LayerInput x(op, input, weight.layout.k, input_scale, input_zero_point, quant_min, quant_max);
  return run_linear_grouped(x, C10_AS_INTARRAYREF_SLOW(sizes), weight, scale.scale, bias, input.scalar_type());
}

at::Tensor linear_grouped_int8_dynamic_cpu(const at::Tensor& input, const at::Tensor& packed_weight,
                                           const at::Tensor& weight_scale, const OptionalTensor& bias, bool per_token,
                                           int64_t quant_min, int64_t quant_max, bool symmetric) {
  constexpr auto op = "linear_grouped_int8_dynamic";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_byte_range(op, "", quant_min, quant_max);
  const GroupedWeight weight = open_weight(op, input, packed_weight);
  check_grouped_int8(op, weight);
  const GroupedScaleView scale = view_weight_scale(op, weight_scale, weight.layout);
  const auto run = [&](const LayerInput& x) {
    return run_linear_grouped(x, C10_AS_INTARRAYREF_SLOW(sizes), weight, scale.scale, bias, input.scalar_type());
  };
  if (per_token) return run(LayerInput(input, weight.layout.k, quant_min, quant_max, symmetric));
  const auto [input_scale, input_zero_point] = whole_tensor_qparams(input, quant_min, quant_max, symmetric);
  return run(LayerInput(op, input, weight.layout.k, input_scale, input_zero_point, quant_min, quant_max));
}

// Rows as float32 with every group padded by zeros, [rows, k_padded].
at::Tensor pad_groups(const at::Tensor& matrix, const cpu::GroupedLayout& w) {
  const at::Tensor x = matrix.to(at::kFloat);
  if (w.k == w.k_padded()) return x;
  at::Tensor padded = at::zeros({x.size(0), w.groups, w.group_padded}, x.options());
  const int64_t whole = w.k / w.group;
  padded.narrow(1, 0, whole).narrow(2, 0, w.group).copy_(x.narrow(1, 0, whole * w.group).view({-1, whole, w.group}));
  if (whole < w.groups) {
    const int64_t rest = w.k - whole * w.group;
    padded.select(1, whole).narrow(1, 0, rest).copy_(x.narrow(1, whole * w.group, rest));
  }
  return padded;
}

at::Tensor linear_weight_only_cpu(const at::Tensor& input, const at::Tensor& packed_weight,
                                  const at::Tensor& weight_scale, const OptionalTensor& weight_zero_point,
                                  const OptionalTensor& bias) {
  constexpr auto op = "linear_weight_only";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_weight_zero_point(op, weight_scale, weight_zero_point);
  const GroupedWeight weight = open_weight(op, input, packed_weight);
  const cpu::GroupedLayout& w = weight.layout;
  const GroupedScaleView scale = view_weight_scale(op, weight_scale, w);
  const int64_t rows = row_count(input).expect_int();
  // The usual input is read where it lies.
  const bool ready = input.scalar_type() == at::kFloat && w.k == w.k_padded();
  const at::Tensor x = ready ? input.contiguous() : pad_groups(input.contiguous().view({rows, w.k}), w);
  at::Tensor y = at::empty(C10_AS_INTARRAYREF_SLOW(sizes), at::TensorOptions().dtype(at::kFloat));
  cpu::GroupedFloat g;
  g.w = w;
  g.weight = weight.data;
  g.scale = scale.scale;
  at::Tensor zero_point;
  if (weight_zero_point.has_value()) {
    zero_point = weight_zero_point->detach().to(at::kFloat).contiguous();
    g.zero_point = cpu::GroupedScale{zero_point.const_data_ptr(), cpu::ScaleType::float32,
                                     cpu::kGroupedColumns * w.groups, 1, w.groups};
  }
  const FloatView float_bias = view_floats(bias);
  g.bias = float_bias.data;
  g.m = rows;
  g.input = x.const_data_ptr<float>();
  g.lda = w.k_padded();
  g.out = y.mutable_data_ptr<float>();
  g.ldo = w.n;
  const auto kernel = cpu::select<cpu::GroupedFloatFn>(cpu::grouped_float_scalar, cpu::grouped_float_avx2,
                                                       cpu::grouped_float_avx512);
  for_each_grouped_block(rows, w, cpu::grouped_float_scratch(w, rows), [&](const cpu::GroupedRange& range) { kernel(g, range); });
  return input.scalar_type() == at::kFloat ? y : y.to(input.scalar_type());
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("linear_grouped_pack", &linear_grouped_pack_cpu);
  m.impl("linear_grouped_unpack", &linear_grouped_unpack_cpu);
  m.impl("linear_grouped_pack_scale", &linear_grouped_pack_scale_cpu);
  m.impl("linear_grouped_int8", &linear_grouped_int8_cpu);
  m.impl("linear_grouped_int8_dynamic", &linear_grouped_int8_dynamic_cpu);
  m.impl("linear_weight_only", &linear_weight_only_cpu);
}

}  // namespace
}  // namespace torchqat
