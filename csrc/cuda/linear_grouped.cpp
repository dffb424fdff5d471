// Deployed linear layers on weights in groups, on CUDA. A packed weight is the CPU's, moved.
#include "ops/torch_headers.h"

#include <cstring>

#include "cuda/grouped.h"
#include "cuda/statistics.h"
#include "cuda/through_cpu.h"
#include "ops/linear_int8.h"
#include "ops/qparams.h"

namespace torchqat::cuda {

using OptionalTensor = std::optional<at::Tensor>;

cpu::GroupedScale view_grouped_scale(const at::Tensor& scale) {
  cpu::GroupedScale s;
  s.data = scale.const_data_ptr();
  s.type = scale.scalar_type() == at::kBFloat16 ? cpu::ScaleType::bfloat16
           : scale.scalar_type() == at::kHalf   ? cpu::ScaleType::float16
                                                : cpu::ScaleType::float32;
  const bool packed = scale.dim() == 3;
  s.column_stride = scale.stride(packed ? 2 : 0);
  s.group_stride = scale.stride(1);
  s.panel_stride = packed ? scale.stride(0) : cpu::kGroupedColumns * s.column_stride;
  return s;
}

GroupedCall::GroupedCall(const char* op, const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                         const OptionalTensor& bias_) {
  for (const at::Tensor& t : {packed_weight, weight_scale, bias_.value_or(weight_scale)}) {
    TORCH_CHECK_VALUE(t.device() == input.device(), op, ": all tensors must be on the device of input, ", input.device(),
                      ", got ", t.device());
  }
  args.m = row_count(input).expect_int();
  args.n = grouped_out_features(weight_scale).expect_int();
  args.k = input.size(-1);
  args.groups = weight_scale.size(1);
  packed = packed_weight.contiguous();
  if (reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 16 != 0) packed = packed.clone();
  TORCH_CHECK_VALUE(packed.numel() >= kPackedHeaderBytes, op, ": packed_weight must begin with torchqat's header of 64 bytes, got ",
                    packed.numel(), " bytes");
  args.packed = packed.const_data_ptr<uint8_t>();
  args.bytes = packed.numel();
  // Group size and bits are in the header, on the device; the size of the whole leaves few possibilities.
  const int64_t columns = (args.n + cpu::kGroupedColumns - 1) / cpu::kGroupedColumns * cpu::kGroupedColumns;
  const int64_t group_bytes = columns * args.groups == 0 ? 0 : (args.bytes - kPackedHeaderBytes) / (columns * args.groups);
  for (const int64_t slot : {8, 4, 2}) {
    const int64_t group = group_bytes * 8 / slot;
    args.whole_tiles |= group > 0 && group % 32 == 0 && (args.k + group - 1) / group == args.groups;
  }
  const auto words = packed_header_words(PackedFormat::linear_grouped, kLinearGroupedVersion, {args.n, args.k, 0, 0, 0, 0});
  std::memcpy(args.header.words, words.data(), sizeof(args.header.words));
  scale = weight_scale.scalar_type() == at::kDouble ? weight_scale.detach().to(at::kFloat) : weight_scale.detach();
  args.scale = view_grouped_scale(scale);
  if (bias_.has_value()) {
    bias = in_type(bias_->detach(), at::kFloat);
    args.bias = bias.const_data_ptr<float>();
  }
  args.type = float_type(input.scalar_type());
}

at::Tensor GroupedCall::run(const at::Tensor& input, c10::SymIntArrayRef sizes, Stream stream) {
  at::Tensor y = at::empty({args.m, args.n}, input.options());
  args.out = y.mutable_data_ptr();
  cuda::linear_grouped(args, stream);
  return y.view_symint(sizes);
}

at::Tensor GroupedCall::run_codes(const QuantizedRows& x, const at::Tensor& input, c10::SymIntArrayRef sizes, Stream stream) {
  args.codes = x.codes.const_data_ptr<uint8_t>();
  args.lda = x.codes.size(1);
  args.row_scale = x.row_scale.const_data_ptr<float>();
  args.row_zero_point = x.row_zero_point.const_data_ptr<int32_t>();
  return run(input, sizes, stream);
}

at::Tensor pack_grouped_codes(const at::Tensor& codes, int64_t group_size, Stream stream) {
  PackGrouped p;
  p.codes = codes.const_data_ptr<int8_t>();
  p.layout = cpu::grouped_layout(codes.size(0), codes.size(1), group_size, 8, /*is_signed=*/true);
  at::Tensor packed = at::empty({kPackedHeaderBytes + p.layout.bytes()}, codes.options().dtype(at::kByte));
  p.packed = packed.mutable_data_ptr<uint8_t>();
  const auto words =
      packed_header_words(PackedFormat::linear_grouped, kLinearGroupedVersion, {p.layout.n, p.layout.k, p.layout.group, 8, 1, 0});
  std::memcpy(p.header.words, words.data(), sizeof(p.header.words));
  pack_grouped(p, stream);
  return packed;
}

namespace {

// None of these is part of a step: packing checks the codes, and the sizes of what is unpacked are in the data.
at::Tensor linear_grouped_pack(const at::Tensor& codes, int64_t bits, int64_t group_size) {
  return through_cpu<int64_t, int64_t>("torchqat::linear_grouped_pack", codes, bits, group_size);
}
at::Tensor linear_grouped_unpack(const at::Tensor& packed) {
  return through_cpu("torchqat::linear_grouped_unpack", packed);
}
at::Tensor linear_grouped_pack_scale(const at::Tensor& scale) {
  return through_cpu("torchqat::linear_grouped_pack_scale", scale);
}

at::Tensor linear_grouped_int8(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                               const OptionalTensor& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                               int64_t quant_min, int64_t quant_max) {
  constexpr auto op = "linear_grouped_int8";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_byte_range(op, "", quant_min, quant_max);
  check_input_qparams(op, input, input_scale, input_zero_point);
  const OnDevice device(input);
  GroupedCall call(op, input, packed_weight, weight_scale, bias);
  const InputQParams qparams = read_input_qparams(input_scale, input_zero_point, quant_min, quant_max);
  const QuantizedRows x =
      quantize_rows(input.contiguous(), call.args.m, call.args.k, qparams, nullptr, /*with_mask=*/false, device.stream());
  return call.run_codes(x, input, sizes, device.stream());
}

at::Tensor linear_grouped_int8_dynamic(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                       const OptionalTensor& bias, bool per_token, int64_t quant_min, int64_t quant_max,
                                       bool symmetric) {
  constexpr auto op = "linear_grouped_int8_dynamic";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_byte_range(op, "", quant_min, quant_max);
  check_chosen_grid(op, quant_min, quant_max, symmetric);
  const OnDevice device(input);
  GroupedCall call(op, input, packed_weight, weight_scale, bias);
  const at::Tensor matrix = input.contiguous().view({call.args.m, call.args.k});
  const QuantizedRows x = quantize_rows_dynamic(matrix, per_token, quant_min, quant_max, symmetric, nullptr, device.stream());
  return call.run_codes(x, input, sizes, device.stream());
}

at::Tensor linear_weight_only(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                              const OptionalTensor& weight_zero_point, const OptionalTensor& bias) {
  constexpr auto op = "linear_weight_only";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_weight_zero_point(op, weight_scale, weight_zero_point);
  const OnDevice device(input);
  GroupedCall call(op, input, packed_weight, weight_scale, bias);
  at::Tensor zero_point;
  if (weight_zero_point.has_value()) {
    zero_point = in_type(weight_zero_point->detach(), at::kFloat);
    call.args.zero_point = view_grouped_scale(zero_point);
  }
  const at::Tensor x = input.contiguous();
  call.args.input = x.const_data_ptr();
  return call.run(x, sizes, device.stream());
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("linear_grouped_pack", &linear_grouped_pack);
  m.impl("linear_grouped_unpack", &linear_grouped_unpack);
  m.impl("linear_grouped_pack_scale", &linear_grouped_pack_scale);
  m.impl("linear_grouped_int8", &linear_grouped_int8);
  m.impl("linear_grouped_int8_dynamic", &linear_grouped_int8_dynamic);
  m.impl("linear_weight_only", &linear_weight_only);
}

}  // namespace
}  // namespace torchqat::cuda
