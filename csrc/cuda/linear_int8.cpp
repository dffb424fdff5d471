// Deployed int8 linear layers on CUDA. A packed weight is the CPU's, moved: its panels are what the tensor cores' fragments want.
#include "ops/torch_headers.h"

#include "cuda/int8_gemm.h"
#include "ops/linear_int8.h"
#include "ops/qparams.h"

namespace torchqat::cuda {
namespace {

at::Tensor linear_int8_pack(const at::Tensor& codes) {
  check_linear_int8_pack(codes);
  const OnDevice device(codes);
  at::Tensor packed = empty_int8_weight(codes.size(0), codes.size(1), codes.options());
  pack_int8_weight(packed, codes.contiguous(), {}, -128, 127, {}, device.stream());
  return packed;
}

// The sizes are in the packed data, so this one waits for the device.
at::Tensor linear_int8_unpack(const at::Tensor& packed_weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::linear_int8_unpack", "")
                             .typed<at::Tensor(const at::Tensor&)>();
  return op.redispatch(c10::DispatchKeySet(c10::DispatchKey::CPU), packed_weight.cpu()).to(packed_weight.device());
}

void check_devices(const char* op, const at::Tensor& input, std::initializer_list<const at::Tensor*> others) {
  for (const auto* t : others) {
    TORCH_CHECK_VALUE(t->device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(),
                      ", got ", t->device());
  }
}

at::Tensor linear_int8(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                       const std::optional<at::Tensor>& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                       int64_t quant_min, int64_t quant_max) {
  constexpr auto op = "linear_int8";
  const auto sizes = check_linear_int8(op, input, packed_weight, weight_scale, bias, quant_min, quant_max);
  check_input_qparams(op, input, input_scale, input_zero_point);
  check_devices(op, input, {&packed_weight, &weight_scale, &input_scale, &input_zero_point, bias ? &*bias : &input});
  const OnDevice device(input);
  const int64_t rows = row_count(input).expect_int(), k = input.size(-1);
  const Int8Weight weight = open_int8_weight(op, packed_weight, weight_scale.numel(), k);
  const InputQParams qparams = read_input_qparams(input_scale, input_zero_point, quant_min, quant_max);
  const QuantizedRows x = quantize_rows(input.contiguous(), rows, k, qparams, &weight, false, device.stream());
  return int8_gemm(x, rows, weight, read_scale(weight_scale), bias, input.scalar_type(), device.stream()).view_symint(sizes);
}

at::Tensor linear_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                               const std::optional<at::Tensor>& bias, bool per_token, int64_t quant_min, int64_t quant_max,
                               bool symmetric) {
  constexpr auto op = "linear_int8_dynamic";
  const auto sizes = check_linear_int8(op, input, packed_weight, weight_scale, bias, quant_min, quant_max);
  check_chosen_grid(op, quant_min, quant_max, symmetric);
  check_devices(op, input, {&packed_weight, &weight_scale, bias ? &*bias : &input});
  const OnDevice device(input);
  const int64_t rows = row_count(input).expect_int(), k = input.size(-1);
  const Int8Weight weight = open_int8_weight(op, packed_weight, weight_scale.numel(), k);
  const at::Tensor matrix = input.contiguous().view({rows, k});
  const QuantizedRows x = quantize_rows_dynamic(matrix, per_token, quant_min, quant_max, symmetric, &weight, device.stream());
  return int8_gemm(x, rows, weight, read_scale(weight_scale), bias, input.scalar_type(), device.stream()).view_symint(sizes);
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("linear_int8_pack", &linear_int8_pack);
  m.impl("linear_int8_unpack", &linear_int8_unpack);
  m.impl("linear_int8", &linear_int8);
  m.impl("linear_int8_dynamic", &linear_int8_dynamic);
}

}  // namespace
}  // namespace torchqat::cuda
