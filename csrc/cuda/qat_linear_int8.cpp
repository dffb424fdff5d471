// The int8 training layer on CUDA: forward is the deployed layer's kernels with this step's weights packed on the device; backward
// multiplies the saved codes, which are exact in bfloat16, so that only the output's gradient (scale folded in) is rounded.
#include "ops/torch_headers.h"

#include "cpu/kernels/panels.h"
#include "cuda/int8_gemm.h"
#include "ops/linear_int8.h"
#include "ops/qat_linear_int8.h"
#include "torchqat/qparams.h"

namespace torchqat::cuda {
namespace {

QuantizedWeightTensors pack_op(const at::Tensor& weight, const OptionalTensor& scale, int64_t quant_min, int64_t quant_max,
                               bool learned) {
  check_qat_linear_int8_pack("qat_linear_int8_pack", weight, scale, quant_min, quant_max);
  const OnDevice device(weight);
  const int64_t n = weight.size(0), k = weight.size(1), block[] = {1, -1};
  const at::Tensor values = scale.has_value() ? read_scale(*scale, learned).reshape({-1}).clone()
                                              : std::get<0>(choose_qparams(weight, block, quant_min, quant_max, true)).view({-1});
  const at::Tensor packed = empty_int8_weight(n, k, weight.options());
  const at::Tensor mask = at::empty({n, (k + 7) / 8}, weight.options().dtype(at::kByte));
  pack_int8_weight(packed, weight.contiguous(), values, quant_min, quant_max, mask, device.stream());
  return {packed, mask, values};
}

QatRows forward_op(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale, int64_t n,
                   const OptionalTensor& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                   int64_t input_quant_min, int64_t input_quant_max, bool input_learned) {
  constexpr auto op = "qat_linear_int8";
  check_qat_linear_int8_input(op, input, bias, n, input_scale, input_zero_point, input_quant_min, input_quant_max);
  for (const at::Tensor& t : {packed_weight, input_scale, input_zero_point, weight_scale, bias.value_or(weight_scale)}) {
    TORCH_CHECK_VALUE(t.device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(), ", got ",
                      t.device());
  }
  const OnDevice device(input);
  const int64_t rows = row_count(input).expect_int(), k = input.size(-1);
  const InputQParams qparams = read_input_qparams(input_scale, input_zero_point, input_quant_min, input_quant_max, input_learned);
  const QuantizedRows x = quantize_rows(input.contiguous(), rows, k, qparams, nullptr, /*with_mask=*/true, device.stream());
  const at::Tensor y = int8_gemm(x, rows, open_int8_weight(op, packed_weight, n, k), read_scale(weight_scale, /*learned=*/true),
                                 bias, input.scalar_type(), device.stream());
  auto sizes = input.sizes().vec();
  sizes.back() = n;
  return {y.view(sizes), x.codes, x.mask};
}

at::Tensor qat_linear_int8_op(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                              const at::Tensor& input_scale, const at::Tensor& input_zero_point, const OptionalTensor& weight_scale,
                              int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                              int64_t weight_quant_max, bool input_learned, bool weight_learned, double, double,
                              c10::string_view backward, const OptionalTensor& packed_weight, const OptionalTensor&) {
  constexpr auto op = "qat_linear_int8";
  parse_backward(op, backward);
  check_qat_linear_int8(op, input, weight, bias, input_scale, input_zero_point, weight_scale,
                        {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, packed_weight);
  TORCH_CHECK_VALUE(weight.device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(),
                    ", got ", weight.device());
  const auto [packed, mask, scale] =
      packed_weight.has_value() ? QuantizedWeightTensors(*packed_weight, {}, *weight_scale)
                                : pack_op(weight, weight_scale, weight_quant_min, weight_quant_max, weight_learned);
  return std::get<0>(forward_op(input, packed, scale, weight.size(0), bias, input_scale, input_zero_point, input_quant_min,
                                input_quant_max, input_learned));
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

at::Tensor finish(const at::Tensor& product, const OptionalTensor& mask, at::ScalarType type, Stream stream) {
  if (!mask.has_value()) return product.to(type);
  const at::Tensor values = product.contiguous(), bits = mask->contiguous();
  at::Tensor out = at::empty(values.sizes(), values.options().dtype(type));
  mask_rows(values.const_data_ptr(), float_type(values.scalar_type()), bits.const_data_ptr<uint8_t>(), values.size(0),
            values.size(1), out.mutable_data_ptr(), float_type(type), stream);
  return out;
}

Gradients backward_op(const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor& mask,
                      const at::Tensor& packed_weight, const OptionalTensor& weight_mask, const at::Tensor& input_scale,
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
  m.impl("qat_linear_int8_pack", &pack_op);
  m.impl("_qat_linear_int8_multiply", &forward_op);
  m.impl("_qat_linear_int8_backward", &backward_op);
}

}  // namespace
}  // namespace torchqat::cuda
