// The int8 training layer on the CPU: the deployed layer's kernels forward, products on the saved codes backward.
#include "cpu/qat_linear_int8.h"

#include "cpu/grad_gemm.h"
#include "cpu/int8_gemm.h"
#include "cpu/isa.h"
#include "cpu/kernels/panels.h"
#include "cpu/output.h"
#include "cpu/range_state.h"
#include "ops/linear_int8.h"

namespace torchqat {
namespace {

// scale: absent, from the weight; mask is made if asked for.
QuantizedWeightTensors quantize_weight(const char* op, const at::Tensor& weight, const OptionalTensor& weight_scale,
                                       int64_t quant_min, int64_t quant_max, bool learned, bool with_mask) {
  const at::Tensor source = weight.contiguous();
  const int64_t n = weight.size(0), k = weight.size(1);
  at::Tensor scale, mask, packed = make_int8_weight(n, k);
  cpu::QuantizeWeights q;
  q.weight = source.const_data_ptr();
  q.type = float_type(source.scalar_type());
  if (weight_scale.has_value()) {
    scale = read_scale(op, "weight_scale", *weight_scale, learned);
    q.scale = scale.const_data_ptr<float>();
    q.stride = scale.numel() == 1 ? 0 : 1;
  } else {
    scale = cpu::result_of({n}, at::kFloat);
    q.chosen_scale = scale.mutable_data_ptr<float>();
  }
  q.quant_min = static_cast<float>(quant_min);
  q.quant_max = static_cast<float>(quant_max);
  if (with_mask) {
    mask = cpu::result_of({n, (k + 7) / 8}, at::kByte);
    q.mask = mask.mutable_data_ptr<uint8_t>();
  }
  const cpu::PackedS8 target = int8_weight_target(packed, n, k);
  const auto kernel = cpu::select<cpu::QuantizePackS8Fn>(cpu::quantize_pack_s8_scalar, cpu::quantize_pack_s8_avx2,
                                                         cpu::quantize_pack_s8_avx512);
  at::parallel_for(0, cpu::padded64(n) / cpu::kPanelColumns, 1,
                   [&](int64_t begin, int64_t end) { kernel(q, target, begin, end); });
  return {packed, mask, scale};
}

QuantizedWeightTensors pack_cpu(const at::Tensor& weight, const OptionalTensor& scale, int64_t quant_min,
                                int64_t quant_max, bool learned) {
  check_qat_linear_int8_pack("qat_linear_int8_pack", weight, scale, quant_min, quant_max);
  auto [packed, mask, values] = quantize_weight("qat_linear_int8_pack", weight, scale, quant_min, quant_max, learned, true);
  // What an op returns must not be what it was given.
  return {packed, mask, scale.has_value() ? values.reshape({-1}).clone() : values};
}

struct QuantizedRowsAndOutput {
  at::Tensor output;
  QuantizedRows rows;
};

QuantizedRowsAndOutput multiply(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                const OptionalTensor& bias, const at::Tensor& input_scale,
                                const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                                bool input_learned, bool with_mask) {
  constexpr auto op = "qat_linear_int8";
  const InputQParams qparams =
      read_input_qparams(op, input_scale, input_zero_point, quant_min, quant_max, input_learned);
  const Int8Weight weight = read_int8_weight(op, packed_weight);
  const int64_t k = input.size(-1), rows = row_count(input).expect_int();
  TORCH_CHECK_VALUE(weight.k == k, op, ": packed_weight must hold ", k, " columns for input ", input.sizes(), ", got ",
                    weight.k);
  QuantizedRows x = quantize_rows(input.contiguous(), rows, k, qparams, with_mask);
  at::Tensor y = int8_gemm(x, rows, qparams, weight, weight_scale, bias, input.scalar_type());
  auto sizes = input.sizes().vec();
  sizes.back() = weight.n;
  return {sizes.size() == 2 ? y : y.view(sizes), std::move(x)};
}

at::Tensor qat_linear_int8_cpu(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                               const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                               const OptionalTensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                               int64_t weight_quant_min, int64_t weight_quant_max, bool input_learned,
                               bool weight_learned, double, double, c10::string_view backward,
                               const OptionalTensor& packed_weight, const OptionalTensor&) {
  constexpr auto op = "qat_linear_int8";
  parse_backward(op, backward);
  check_qat_linear_int8(op, input, weight, bias, input_scale, input_zero_point, weight_scale,
                        {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, packed_weight);
  at::Tensor packed, scale, mask;
  if (packed_weight.has_value()) {
    packed = *packed_weight;
    scale = read_scale(op, "weight_scale", *weight_scale, weight_learned);
  } else {
    std::tie(packed, mask, scale) =
        quantize_weight(op, weight, weight_scale, weight_quant_min, weight_quant_max, weight_learned, /*with_mask=*/false);
  }
  return multiply(input, packed, scale, bias, input_scale, input_zero_point, input_quant_min, input_quant_max,
                  input_learned, /*with_mask=*/false).output;
}

QatRows forward_cpu(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale, int64_t n,
                    const OptionalTensor& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                    int64_t input_quant_min, int64_t input_quant_max, bool input_learned) {
  constexpr auto op = "qat_linear_int8";
  check_qat_linear_int8_input(op, input, bias, n, input_scale, input_zero_point, input_quant_min, input_quant_max);
  const at::Tensor scale = read_scale(op, "weight_scale", weight_scale, /*learned=*/true);
  TORCH_CHECK_VALUE(scale.numel() == 1 || scale.numel() == n, op, ": weight_scale must have one element or ", n,
                    ", got shape ", weight_scale.sizes());
  auto [output, rows] = multiply(input, packed_weight, scale, bias, input_scale, input_zero_point, input_quant_min,
                                 input_quant_max, input_learned, /*with_mask=*/true);
  TORCH_CHECK_VALUE(output.size(-1) == n, op, ": packed_weight must hold ", n, " rows, got ", output.size(-1));
  return {output, rows.codes, rows.mask};
}

}  // namespace

cpu::ObservedForward cpu::qat_linear_int8_observed_forward(const ObservedArguments& a, bool with_masks) {
  constexpr auto op = "qat_linear_int8";
  auto [input_scale, input_zero_point] =
      observe_minmax(a.input, a.min_val, a.max_val, a.nonfinite_count, {}, a.averaging_constant, a.ranges.input_min,
                     a.ranges.input_max, a.input_symmetric);
  check_qat_linear_int8(op, a.input, a.weight, a.bias, input_scale, input_zero_point, std::nullopt, a.ranges);
  auto [packed, weight_mask, weight_scale] = quantize_weight(op, a.weight, std::nullopt, a.ranges.weight_min,
                                                             a.ranges.weight_max, /*learned=*/false, with_masks);
  auto [output, rows] = multiply(a.input, packed, weight_scale, a.bias, input_scale, input_zero_point, a.ranges.input_min,
                                 a.ranges.input_max, /*input_learned=*/false, with_masks);
  return {std::move(output),      std::move(rows.codes),   std::move(rows.mask),   std::move(packed),
          std::move(weight_mask), std::move(weight_scale), std::move(input_scale), std::move(input_zero_point)};
}

namespace {

// The plain way: float products on the dequantised codes.
void grad_by_float(const GradProblem& p, const GradResults& out) {
  const at::Tensor grad = p.grad.to(at::kFloat);
  const auto finish = [](const at::Tensor& product, const at::Tensor& mask, const at::Tensor& target) {
    if (mask.defined()) apply_bit_mask(product, mask);
    target.copy_(product);
  };
  if (out.input.defined()) {
    at::Tensor codes = at::empty({p.n, p.k}, at::kChar);
    cpu::unpack_s8(p.weight.panels, p.n, p.k, codes.mutable_data_ptr<int8_t>());
    finish(at::mm(grad, codes.to(at::kFloat).mul_(p.weight_scale.view({-1, 1}))), p.mask, out.input);
  }
  if (out.weight.defined()) {
    const at::Tensor x = p.codes.narrow(1, 0, p.k)
                             .to(at::kFloat)
                             .sub_(p.qparams->zero_point.view({-1, 1}))
                             .mul_(p.qparams->scale.view({-1, 1}));
    finish(at::mm(grad.t(), x), p.weight_mask, out.weight);
  }
  if (out.bias.defined()) bias_gradient(p, out.bias);
}

Gradients backward_cpu(const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor& mask,
                       const at::Tensor& packed_weight, const OptionalTensor& weight_mask,
                       const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                       int64_t k, int64_t input_quant_min, int64_t input_quant_max, at::ScalarType input_dtype,
                       at::ScalarType weight_dtype, c10::string_view backward, std::array<bool, 3> wanted) {
  constexpr auto op = "_qat_linear_int8_backward";
  check_qat_linear_int8_backward(grad_output, codes, packed_weight, backward);
  GradProblem p;
  p.weight = read_int8_weight(op, packed_weight);
  p.n = grad_output.size(-1);
  p.m = codes.size(0);
  p.k = k;
  TORCH_CHECK_VALUE(p.weight.n == p.n && p.weight.k == k && codes.size(1) == p.weight.k_padded, op,
                    ": packed_weight must hold ", p.n, " x ", k, " codes, got ", p.weight.n, " x ", p.weight.k);
  const auto check_mask = [&](const OptionalTensor& bits, const char* name, int64_t rows) {
    if (!bits.has_value()) return at::Tensor();
    TORCH_CHECK_VALUE(bits->scalar_type() == at::kByte && bits->dim() == 2 && bits->size(0) == rows &&
                          bits->size(1) == (k + 7) / 8,
                      op, ": ", name, " must be uint8 [", rows, ", ", (k + 7) / 8, "], got ", bits->sizes());
    return bits->contiguous();
  };
  p.mask = check_mask(mask, "mask", p.m);
  p.weight_mask = check_mask(weight_mask, "weight_mask", p.n);
  p.grad = grad_output.contiguous();
  if (p.grad.dim() != 2) p.grad = p.grad.view({p.m, p.n});
  p.codes = codes.contiguous();
  p.weight_scale = read_scale(op, "weight_scale", weight_scale, /*learned=*/true);
  const InputQParams qparams =
      read_input_qparams(op, input_scale, input_zero_point, input_quant_min, input_quant_max, /*learned=*/true);
  p.qparams = &qparams;
  at::DimVector sizes(grad_output.sizes());
  sizes.back() = k;
  const auto result = [](bool is_wanted, at::IntArrayRef of, at::ScalarType dtype) {
    return is_wanted ? cpu::result_of(of, dtype) : cpu::result_of({0}, dtype);
  };
  const at::Tensor grad_input = result(wanted[0], sizes, input_dtype);
  const at::Tensor grad_weight = result(wanted[1], {p.n, k}, weight_dtype);
  const at::Tensor grad_bias = result(wanted[2], {p.n}, at::kFloat);
  GradResults out;
  if (wanted[0]) out.input = sizes.size() == 2 ? grad_input : grad_input.view({p.m, k});
  if (wanted[1]) out.weight = grad_weight;
  if (wanted[2]) out.bias = grad_bias;
  if (p.m == 0 || p.n == 0 || k == 0) {
    grad_input.zero_();
    grad_weight.zero_();
    if (wanted[2] && p.n > 0) bias_gradient(p, grad_bias);
    return {grad_input, grad_weight, grad_bias};
  }
  switch (resolve_backward(parse_backward(op, backward))) {
    case Backward::int16: grad_by_limbs(p, out); break;
    case Backward::bfloat16: grad_by_bf16(p, out); break;
    default: grad_by_float(p, out); break;
  }
  return {grad_input, grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("qat_linear_int8", &qat_linear_int8_cpu);
  m.impl("qat_linear_int8_pack", &pack_cpu);
  m.impl("_qat_linear_int8_multiply", &forward_cpu);
  m.impl("_qat_linear_int8_backward", &backward_cpu);
}

}  // namespace
}  // namespace torchqat
