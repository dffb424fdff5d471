// Shapes of the linear ops on weights in groups. linear_grouped_unpack has no Meta kernel: its shape is in the packed data.
#include "ops/linear_grouped.h"

#include "ops/linear_int8.h"
#include "ops/packed_header.h"

namespace torchqat {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor linear_grouped_pack_meta(const at::Tensor& codes, int64_t bits, int64_t group_size) {
  check_linear_grouped_pack(codes, bits, group_size);
  // The arithmetic of grouped_layout (cpu/kernels/grouped_layout.h), on symbolic sizes.
  const c10::SymInt n = codes.sym_size(0), k = codes.sym_size(1), group = k.max(1).min(group_size);
  const int64_t slot = bits == 3 ? 4 : bits, line_k = 32 / slot;
  const c10::SymInt chunks = (group + 63) / 64, chunk = ((group + chunks - 1) / chunks + line_k - 1) / line_k * line_k;
  const c10::SymInt groups = (k + group - 1) / group, panels = (n + 63) / 64;
  return at::empty_symint({kPackedHeaderBytes + panels * groups * (chunks * chunk * 64 * slot / 8)},
                          codes.options().dtype(at::kByte));
}

at::Tensor linear_grouped_pack_scale_meta(const at::Tensor& weight_scale) {
  check_weight_scale_form("linear_grouped_pack_scale", weight_scale);
  if (weight_scale.dim() == 3) return at::empty_symint(weight_scale.sym_sizes(), weight_scale.options());
  const c10::SymInt n = weight_scale.sym_size(0), groups = weight_scale.sym_size(1);
  if (n % 64 == 0) return at::empty_symint({n / 64, groups, 64}, weight_scale.options());
  return at::empty_symint({groups, n}, weight_scale.options()).t();
}

at::Tensor linear_grouped_int8_meta(const at::Tensor& input, const at::Tensor& packed_weight,
                                    const at::Tensor& weight_scale, const OptionalTensor& bias,
                                    const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                    int64_t quant_min, int64_t quant_max) {
  constexpr auto op = "linear_grouped_int8";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_byte_range(op, "", quant_min, quant_max);
  check_input_qparams(op, input, input_scale, input_zero_point);
  return at::empty_symint(sizes, input.options());
}

at::Tensor linear_grouped_int8_dynamic_meta(const at::Tensor& input, const at::Tensor& packed_weight,
                                            const at::Tensor& weight_scale, const OptionalTensor& bias, bool,
                                            int64_t quant_min, int64_t quant_max, bool) {
  constexpr auto op = "linear_grouped_int8_dynamic";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_byte_range(op, "", quant_min, quant_max);
  return at::empty_symint(sizes, input.options());
}

at::Tensor linear_weight_only_meta(const at::Tensor& input, const at::Tensor& packed_weight,
                                   const at::Tensor& weight_scale, const OptionalTensor& weight_zero_point,
                                   const OptionalTensor& bias) {
  constexpr auto op = "linear_weight_only";
  const auto sizes = check_linear_grouped(op, input, packed_weight, weight_scale, bias);
  check_weight_zero_point(op, weight_scale, weight_zero_point);
  return at::empty_symint(sizes, input.options());
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("linear_grouped_pack", &linear_grouped_pack_meta);
  m.impl("linear_grouped_pack_scale", &linear_grouped_pack_scale_meta);
  m.impl("linear_grouped_int8", &linear_grouped_int8_meta);
  m.impl("linear_grouped_int8_dynamic", &linear_grouped_int8_dynamic_meta);
  m.impl("linear_weight_only", &linear_weight_only_meta);
}

}  // namespace
}  // namespace torchqat
