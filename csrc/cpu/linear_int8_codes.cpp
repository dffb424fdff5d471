// linear_int8_codes on the CPU.
#include "cpu/int8_gemm.h"
#include "ops/forms.h"
#include "ops/linear_int8.h"

namespace torchqat {
namespace {

// Codes as rows that the kernel reads: unsigned, each of k_padded bytes. What lies beyond K meets zero weights.
QuantizedRows rows_of_codes(const at::Tensor& input, int64_t rows, const Int8Weight& weight) {
  const at::Tensor x = input.contiguous();
  QuantizedRows out;
  const bool is_signed = x.scalar_type() == at::kChar;
  if (!is_signed && weight.k == weight.k_padded) {
    out.codes = x.view({rows, weight.k});
    return out;
  }
  out.codes = at::empty({rows, weight.k_padded}, x.options().dtype(at::kByte));
  const auto* from = static_cast<const uint8_t*>(x.const_data_ptr());
  auto* to = out.codes.mutable_data_ptr<uint8_t>();
  const uint8_t flip = is_signed ? 0x80 : 0;
  at::parallel_for(0, rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(weight.k, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      uint8_t* row = to + r * weight.k_padded;
      for (int64_t k = 0; k < weight.k; ++k) row[k] = from[r * weight.k + k] ^ flip;
      for (int64_t k = weight.k; k < weight.k_padded; ++k) row[k] = 0;
    }
  });
  return out;
}

at::Tensor linear_int8_codes_cpu(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                 const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                 const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max, bool relu,
                                 const std::optional<at::Tensor>& output_scale, const std::optional<at::Tensor>& output_zero_point,
                                 int64_t output_quant_min, int64_t output_quant_max) {
  constexpr auto op = "linear_int8_codes";
  const auto sizes = check_linear_int8_codes(op, input, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max);
  const auto type = form_output_type(op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  const Int8Weight weight = read_int8_weight(op, packed_weight);
  TORCH_CHECK_VALUE(input.size(-1) == weight.k, op, ": input must have shape [..., ", weight.k, "] for this packed_weight, got ",
                    input.sizes());
  TORCH_CHECK_VALUE(weight_scale.numel() == weight.n, op, ": weight_scale must have shape [", weight.n,
                    "] for this packed_weight, got ", weight_scale.sizes());
  const InputQParams qparams = read_input_qparams(op, input_scale, input_zero_point, quant_min, quant_max);
  CodesGrid grid;
  if (type != at::kFloat) {
    const int64_t shift = output_quant_min < 0 ? 128 : 0, zero_point = output_zero_point->item<int64_t>();
    TORCH_CHECK_VALUE(output_quant_min <= zero_point && zero_point <= output_quant_max, op, ": output_zero_point must lie within [",
                      output_quant_min, ", ", output_quant_max, "], got ", zero_point);
    grid.scale = read_scale(op, "output_scale", *output_scale).const_data_ptr<float>()[0];
    grid.zero_point = static_cast<float>(zero_point + shift);
    grid.quant_min = static_cast<float>(output_quant_min + shift);
    grid.quant_max = static_cast<float>(output_quant_max + shift);
    grid.relu = relu;
  }
  const int64_t rows = row_count(input).expect_int();
  const bool from_codes = !input.is_floating_point();
  const QuantizedRows x = from_codes ? rows_of_codes(input, rows, weight) : quantize_rows(input.contiguous(), rows, weight.k, qparams, false);
  const auto dtype = from_codes || type != at::kFloat ? at::kFloat : input.scalar_type();
  at::Tensor y = int8_gemm(x, rows, qparams, weight, read_scale(op, "weight_scale", weight_scale), bias, dtype,
                           type == at::kFloat ? nullptr : &grid);
  if (type == at::kChar) y = y.bitwise_xor_(0x80).view(at::kChar);
  if (type == at::kFloat && relu) y.clamp_min_(0);
  return y.view_symint(sizes);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CPU, m) { m.impl("linear_int8_codes", &linear_int8_codes_cpu); }

}  // namespace torchqat
