// Shapes of fake_quantize_observed and merge_range_.
#include "ops/torch_headers.h"

#include "ops/observed.h"
#include "ops/qparams.h"

namespace torchqat {
namespace {

Observed observed(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                  c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  const auto shape = check_fake_quantize_observed(input, scale, zero_point, block_size, quant_min, quant_max);
  const auto options = input.options().dtype(compute_type(input));
  return {at::empty_like(input), at::empty_symint(shape, options), at::empty_symint(shape, options),
          at::empty({}, input.options().dtype(at::kLong))};
}

ObservedWithMask observed_forward(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                  c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  return std::tuple_cat(observed(input, scale, zero_point, block_size, quant_min, quant_max),
                        std::make_tuple(at::empty_symint({mask_bytes(input)}, input.options().dtype(at::kByte))));
}

std::tuple<at::Tensor, at::Tensor> merge_range(at::Tensor& min_val, at::Tensor& max_val, at::Tensor& nonfinite_count,
                                               const at::Tensor& new_min, const at::Tensor& new_max,
                                               const at::Tensor& new_nonfinite, double averaging_constant, int64_t quant_min,
                                               int64_t quant_max, bool symmetric) {
  check_merge_range(min_val, max_val, nonfinite_count, new_min, new_max, new_nonfinite, averaging_constant, quant_min, quant_max,
                    symmetric);
  return {at::empty_symint(min_val.sym_sizes(), min_val.options().dtype(compute_type(min_val))),
          at::empty_symint(min_val.sym_sizes(), min_val.options().dtype(at::kInt))};
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("fake_quantize_observed", &observed);
  m.impl("_fake_quantize_observed_forward", &observed_forward);
  m.impl("merge_range_", &merge_range);
}

}  // namespace
}  // namespace torchqat
