// The training layer with weights in groups on CUDA: the deployed layer's kernels forward, on this step's weights packed on the
// device; products on the dequantised codes backward.
#include "ops/torch_headers.h"

#include "cuda/grouped.h"
#include "cuda/lines.h"
#include "ops/linear_int8.h"
#include "ops/qat_linear_grouped.h"

namespace torchqat::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t longest_integer_group = 32768;

QatForward forward(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias, const at::Tensor& input_scale,
                   const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t group_size,
                   const CodeRanges& ranges, bool input_learned, bool weight_learned, bool with_mask) {
  constexpr auto op = "qat_linear_grouped";
  const auto sizes = check_qat_linear_grouped(op, input, weight, bias, input_scale, input_zero_point, weight_scale, group_size, ranges);
  for (const at::Tensor& t : {weight, input_scale, input_zero_point}) {
    TORCH_CHECK_VALUE(t.device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(), ", got ",
                      t.device());
  }
  const OnDevice device(input);
  const int64_t rows = row_count(input).expect_int(), k = weight.size(1), group = std::min(group_size, std::max<int64_t>(k, 1));
  TORCH_CHECK_VALUE((group + 63) / 64 * 64 <= longest_integer_group, op, ": groups must be at most ", longest_integer_group,
                    " long, got ", group);
  const at::Tensor scale = read_scale(weight_scale, weight_learned).view(weight_scale.sizes());
  const WeightCodes w = quantize_weight_lines(weight, scale, group, ranges.weight_min, ranges.weight_max, device.stream());
  const at::Tensor packed = pack_grouped_codes(w.codes, group_size, device.stream());
  const InputQParams qparams =
      read_input_qparams(input_scale, input_zero_point, ranges.input_min, ranges.input_max, input_learned);
  const QuantizedRows x = quantize_rows(input.contiguous(), rows, k, qparams, nullptr, with_mask, device.stream());
  GroupedCall call(op, input, packed, scale, bias);
  return {call.run_codes(x, input, sizes, device.stream()), x.codes, x.mask, w.codes, w.mask};
}

at::Tensor qat_linear_grouped_op(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                 const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                                 int64_t group_size, int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                                 int64_t weight_quant_max, bool input_learned, bool weight_learned, double, double,
                                 c10::string_view backward) {
  parse_backward("qat_linear_grouped", backward);
  return std::get<0>(forward(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size,
                             {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, input_learned, weight_learned,
                             /*with_mask=*/false));
}

QatForward forward_op(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias, const at::Tensor& input_scale,
                      const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t group_size,
                      int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                      bool input_learned, bool weight_learned) {
  return forward(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size,
                 {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, input_learned, weight_learned,
                 /*with_mask=*/true);
}

// q * s in float32, [n, k].
at::Tensor dequantised(const at::Tensor& codes, const at::Tensor& scale, int64_t group) {
  const at::Tensor columns = scale.repeat_interleave(group, 1).narrow(1, 0, codes.size(1));
  return codes.to(at::kFloat).mul_(columns);
}

Gradients backward_op(const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor& mask,
                      const at::Tensor& weight_codes, const OptionalTensor& weight_mask, const at::Tensor& input_scale,
                      const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t group_size,
                      int64_t input_quant_min, int64_t input_quant_max, at::ScalarType input_dtype, at::ScalarType weight_dtype,
                      c10::string_view backward, std::array<bool, 3> wanted) {
  constexpr auto op = "_qat_linear_grouped_backward";
  check_qat_linear_grouped_backward(grad_output, codes, weight_codes, weight_scale, group_size, backward);
  const OnDevice device(grad_output);
  const int64_t m = codes.size(0), n = weight_codes.size(0), k = weight_codes.size(1);
  for (const auto& [bits, rows] : {std::pair{mask, m}, std::pair{weight_mask, n}}) {
    TORCH_CHECK_VALUE(!bits.has_value() || (bits->scalar_type() == at::kByte && bits->numel() == rows * ((k + 7) / 8)), op,
                      ": mask and weight_mask must be uint8 [", rows, ", ", (k + 7) / 8, "], got ", bits->sizes());
  }
  const auto mode = parse_backward(op, backward);
  const auto type = mode == Backward::bfloat16 || mode == Backward::automatic ? at::kBFloat16 : at::kFloat;
  const at::Tensor grad = grad_output.contiguous().view({m, n}).to(at::kFloat);
  auto sizes = grad_output.sizes().vec();
  sizes.back() = k;
  at::Tensor grad_input = at::empty({0}, grad_output.options().dtype(input_dtype));
  at::Tensor grad_weight = at::empty({0}, grad_output.options().dtype(weight_dtype));
  at::Tensor grad_bias = at::empty({0}, grad_output.options().dtype(at::kFloat));
  if (wanted[0]) {
    const at::Tensor scale = read_scale(weight_scale, /*learned=*/true).view(weight_scale.sizes());
    const at::Tensor w = dequantised(weight_codes, scale, std::min(group_size, std::max<int64_t>(k, 1))).to(type);
    grad_input = apply_line_mask(at::mm(grad.to(type), w), mask, m, input_dtype, device.stream()).view(sizes);
  }
  if (wanted[1]) {
    const InputQParams qparams =
        read_input_qparams(input_scale, input_zero_point, input_quant_min, input_quant_max, /*learned=*/true);
    // Differences of codes are exact in bfloat16: the scale goes into the gradient.
    const at::Tensor levels =
        codes.narrow(1, 0, k).to(at::kFloat).sub_(qparams.zero_point.view({-1, 1}).add(qparams.shift)).to(type);
    const at::Tensor scaled = grad.mul(qparams.scale.view({-1, 1})).to(type);
    grad_weight = apply_line_mask(at::mm(scaled.t(), levels), weight_mask, n, weight_dtype, device.stream());
  }
  if (wanted[2]) grad_bias = grad.sum(0);
  return {grad_input, grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("qat_linear_grouped", &qat_linear_grouped_op);
  m.impl("_qat_linear_grouped_forward", &forward_op);
  m.impl("_qat_linear_grouped_backward", &backward_op);
}

}  // namespace
}  // namespace torchqat::cuda
