// Deployed int8 linear layers on the CPU.
#include "ops/linear_int8.h"

#include "cpu/isa.h"
#include "cpu/kernels/panels.h"
#include "cpu/layer_input.h"
#include "ops/packed_header.h"

namespace torchqat {
namespace {

at::Tensor linear_int8_pack_cpu(const at::Tensor& codes) {
  check_linear_int8_pack(codes);
  return pack_int8_weight(codes, /*lasting=*/true);
}

at::Tensor linear_int8_unpack_cpu(const at::Tensor& packed_weight) {
  const Int8Weight weight = read_int8_weight("linear_int8_unpack", packed_weight);
  at::Tensor codes = at::empty({weight.n, weight.k}, packed_weight.options().dtype(at::kChar));
  cpu::unpack_s8(weight.panels, weight.n, weight.k, codes.mutable_data_ptr<int8_t>());
  return codes;
}

Int8Weight open_weight(const char* op, const at::Tensor& input, const at::Tensor& packed_weight,
                       const at::Tensor& weight_scale) {
  Int8Weight weight = read_int8_weight(op, packed_weight);
  TORCH_CHECK_VALUE(input.size(-1) == weight.k, op, ": input must have shape [..., ", weight.k,
                    "] for this packed_weight, got ", input.sizes());
  TORCH_CHECK_VALUE(weight_scale.numel() == weight.n, op, ": weight_scale must have shape [", weight.n,
                    "] for this packed_weight, got ", weight_scale.sizes());
  return weight;
}

at::Tensor linear_int8_cpu(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                           const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                           const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max) {
  constexpr auto op = "linear_int8";
  const auto sizes = check_linear_int8(op, input, packed_weight, weight_scale, bias, quant_min, quant_max);
  check_input_qparams(op, input, input_scale, input_zero_point);
  const Int8Weight weight = open_weight(op, input, packed_weight, weight_scale);
  const FloatView scale = view_scale(op, "weight_scale", weight_scale);
  const LayerInput x(op, input, weight.k, input_scale, input_zero_point, quant_min, quant_max);
  return run_linear_int8(x, C10_AS_INTARRAYREF_SLOW(sizes), weight, scale.data, bias, input.scalar_type());
}

at::Tensor linear_int8_dynamic_cpu(const at::Tensor& input, const at::Tensor& packed_weight,
                                   const at::Tensor& weight_scale, const std::optional<at::Tensor>& bias,
                                   bool per_token, int64_t quant_min, int64_t quant_max, bool symmetric) {
  constexpr auto op = "linear_int8_dynamic";
  const auto sizes = check_linear_int8(op, input, packed_weight, weight_scale, bias, quant_min, quant_max);
  const Int8Weight weight = open_weight(op, input, packed_weight, weight_scale);
  const FloatView scale = view_scale(op, "weight_scale", weight_scale);
  const auto run = [&](const LayerInput& x) {
    return run_linear_int8(x, C10_AS_INTARRAYREF_SLOW(sizes), weight, scale.data, bias, input.scalar_type());
  };
  if (per_token) return run(LayerInput(input, weight.k, quant_min, quant_max, symmetric));
  const auto [input_scale, input_zero_point] = whole_tensor_qparams(input, quant_min, quant_max, symmetric);
  return run(LayerInput(op, input, weight.k, input_scale, input_zero_point, quant_min, quant_max));
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("linear_int8_pack", &linear_int8_pack_cpu);
  m.impl("linear_int8_unpack", &linear_int8_unpack_cpu);
  m.impl("linear_int8", &linear_int8_cpu);
  m.impl("linear_int8_dynamic", &linear_int8_dynamic_cpu);
}

}  // namespace
}  // namespace torchqat
