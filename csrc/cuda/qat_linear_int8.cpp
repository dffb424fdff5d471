// The int8 training layer on CUDA: forward is the deployed layer's kernels with this step's weights packed on the device; backward
// multiplies the saved codes, which are exact in bfloat16, so that only the output's gradient (scale folded in) is rounded.
#include "ops/torch_headers.h"

#include "cpu/kernels/panels.h"
#include "cuda/int8_gemm.h"
#include "ops/linear_int8.h"
#include "ops/qat_linear_int8.h"

namespace torchqat::cuda {
namespace {

QatForward forward(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                   const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                   const CodeRanges& ranges, bool input_learned, bool weight_learned, bool with_masks) {
  constexpr auto op = "qat_linear_int8";
  const auto sizes = check_qat_linear_int8(op, input, weight, bias, input_scale, input_zero_point, weight_scale, ranges);
  for (const at::Tensor& t : {weight, input_scale, input_zero_point, weight_scale, bias.value_or(weight)}) {
    TORCH_CHECK_VALUE(t.device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(), ", got ",
                      t.device());
  }
  const OnDevice device(input);
  const int64_t rows = row_count(input).expect_int(), n = weight.size(0), k = weight.size(1);
  const at::Tensor w_scale = read_scale(weight_scale, weight_learned);
  const at::Tensor packed = empty_int8_weight(n, k, weight.options());
  at::Tensor weight_mask;
  if (with_masks) weight_mask = at::empty({n, (k + 7) / 8}, weight.options().dtype(at::kByte));
  pack_int8_weight(packed, weight.contiguous(), w_scale, ranges.weight_min, ranges.weight_max, weight_mask, device.stream());
  const InputQParams qparams = read_input_qparams(input_scale, input_zero_point, ranges.input_min, ranges.input_max, input_learned);
  const QuantizedRows x = quantize_rows(input.contiguous(), rows, k, qparams, nullptr, with_masks, device.stream());
  const at::Tensor y = int8_gemm(x, rows, open_int8_weight(op, packed, n, k), w_scale, bias, input.scalar_type(), device.stream());
  return {y.view_symint(sizes), x.codes, x.mask, packed, weight_mask};
}

at::Tensor qat_linear_int8_op(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                              const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                              int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                              int64_t weight_quant_max, bool input_learned, bool weight_learned, double, double,
                              c10::string_view backward) {
  parse_backward("qat_linear_int8", backward);
  return std::get<0>(forward(input, weight, bias, input_scale, input_zero_point, weight_scale,
                             {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, input_learned, weight_learned,
                             /*with_masks=*/false));
}

QatForward forward_op(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                      int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                      bool input_learned, bool weight_learned) {
  return forward(input, weight, bias, input_scale, input_zero_point, weight_scale,
                 {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, input_learned, weight_learned,
                 /*with_masks=*/true);
}

// int8 [n, k] as a view of the panels, or a copy.
at::Tensor weight_codes(const Int8Weight& w) {
  const int64_t n_padded = cpu::padded64(w.n), bytes = n_padded * w.k_padded;
  return w.owner.narrow(0, w.owner.numel() - bytes, bytes)
      .view(at::kChar)
      .view({n_padded / cpu::kPanelColumns, w.k_padded / 4, cpu::kPanelColumns, 4})
      .permute({0, 2, 1, 3})
      .reshape({n_padded, w.k_padded})
      .narrow(0, 0, w.n)
      .narrow(1, 0, w.k);
}

at::Tensor finish(const at::Tensor& product, const std::optional<at::Tensor>& mask, at::ScalarType type, Stream stream) {
  if (!mask.has_value()) return product.to(type);
  const at::Tensor values = product.contiguous(), bits = mask->contiguous();
  at::Tensor out = at::empty(values.sizes(), values.options().dtype(type));
  mask_rows(values.const_data_ptr(), float_type(values.scalar_type()), bits.const_data_ptr<uint8_t>(), values.size(0),
            values.size(1), out.mutable_data_ptr(), float_type(type), stream);
  return out;
}

Gradients backward_op(const at::Tensor& grad_output, const at::Tensor& codes, const std::optional<at::Tensor>& mask,
                      const at::Tensor& packed_weight, const std::optional<at::Tensor>& weight_mask, const at::Tensor& input_scale,
                      const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t k, int64_t input_quant_min,
                      int64_t input_quant_max, at::ScalarType input_dtype, at::ScalarType weight_dtype, c10::string_view backward,
                      std::array<bool, 3> wanted) {
  constexpr auto op = "_qat_linear_int8_backward";
  check_qat_linear_int8_backward(grad_output, codes, packed_weight, backward);
  const OnDevice device(grad_output);
  const int64_t m = codes.size(0), n = grad_output.size(-1);
  const Int8Weight weight = open_int8_weight(op, packed_weight, n, k);
  for (const auto& [bits, rows] : {std::pair{mask, m}, std::pair{weight_mask, n}}) {
    TORCH_CHECK_VALUE(!bits.has_value() || (bits->scalar_type() == at::kByte && bits->numel() == rows * ((k + 7) / 8)), op,
                      ": mask and weight_mask must be uint8 [", rows, ", ", (k + 7) / 8, "], got ", bits->sizes());
  }
  const auto mode = parse_backward(op, backward);
  const bool narrow = mode == Backward::bfloat16 || mode == Backward::automatic;
  const auto type = narrow ? at::kBFloat16 : at::kFloat;
  const at::Tensor grad = grad_output.contiguous().view({m, n}).to(at::kFloat);
  const InputQParams qparams =
      read_input_qparams(input_scale, input_zero_point, input_quant_min, input_quant_max, /*learned=*/true);
  auto sizes = grad_output.sizes().vec();
  sizes.back() = k;
  at::Tensor grad_input = at::empty({0}, grad_output.options().dtype(input_dtype));
  at::Tensor grad_weight = at::empty({0}, grad_output.options().dtype(weight_dtype));
  at::Tensor grad_bias = at::empty({0}, grad_output.options().dtype(at::kFloat));
  if (wanted[0]) {
    const at::Tensor scaled = grad.mul(read_scale(weight_scale, /*learned=*/true).view({1, -1})).to(type);
    grad_input = finish(at::mm(scaled, weight_codes(weight).to(type)), mask, input_dtype, device.stream()).view(sizes);
  }
  if (wanted[1]) {
    const at::Tensor scaled = grad.mul(qparams.scale.view({-1, 1})).to(type);
    const at::Tensor levels =
        codes.narrow(1, 0, k).to(at::kFloat).sub_(qparams.zero_point.view({-1, 1}).add(qparams.shift)).to(type);
    grad_weight = finish(at::mm(scaled.t(), levels), weight_mask, weight_dtype, device.stream());
  }
  if (wanted[2]) grad_bias = grad.sum(0);
  return {grad_input, grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("qat_linear_int8", &qat_linear_int8_op);
  m.impl("_qat_linear_int8_forward", &forward_op);
  m.impl("_qat_linear_int8_backward", &backward_op);
}

}  // namespace
}  // namespace torchqat::cuda
