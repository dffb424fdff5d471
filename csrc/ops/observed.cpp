// Schemas, checks and C++ entry points of fake_quantize_observed and merge_range_.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/fake_quantize.h"
#include "ops/observed.h"
#include "ops/qparams.h"
#include "torchqat/observed.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "fake_quantize_observed(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, "
      "int quant_max) -> (Tensor output, Tensor min_val, Tensor max_val, Tensor nonfinite)");
  m.def(
      "_fake_quantize_observed_forward(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, "
      "int quant_max) -> (Tensor output, Tensor min_val, Tensor max_val, Tensor nonfinite, Tensor mask)");
  m.def(
      "merge_range_(Tensor(a!) min_val, Tensor(b!) max_val, Tensor(c!) nonfinite_count, Tensor new_min, Tensor new_max, "
      "Tensor new_nonfinite, float averaging_constant, int quant_min, int quant_max, bool symmetric) "
      "-> (Tensor scale, Tensor zero_point)");
}

SymSizes check_fake_quantize_observed(const at::Tensor& input, const at::Tensor& scale,
                                      const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                      int64_t quant_min, int64_t quant_max) {
  check_fake_quantize("fake_quantize_observed", input, scale, zero_point, block_size, quant_min, quant_max);
  return scale_shape("fake_quantize_observed", input.sym_sizes(), block_size);
}

void check_merge_range(const at::Tensor& min_val, const at::Tensor& max_val, const at::Tensor& nonfinite_count,
                       const at::Tensor& new_min, const at::Tensor& new_max, const at::Tensor& new_nonfinite,
                       double averaging_constant, int64_t quant_min, int64_t quant_max, bool symmetric) {
  const char* op = "merge_range_";
  check_chosen_grid(op, quant_min, quant_max, symmetric);
  TORCH_CHECK_VALUE(averaging_constant > 0 && averaging_constant <= 1, op, ": averaging_constant must be in (0, 1], got ",
                    averaging_constant);
  const std::pair<const char*, const at::Tensor&> ranges[] = {
      {"min_val", min_val}, {"max_val", max_val}, {"new_min", new_min}, {"new_max", new_max}};
  for (const auto& [name, range] : ranges) {
    check_floating(op, name, range);
    TORCH_CHECK_VALUE(range.sym_numel() == min_val.sym_numel(), op, ": ", name, " must have as many entries as min_val (",
                      min_val.sym_numel(), "), got ", range.sym_sizes());
    TORCH_CHECK_VALUE(range.device() == min_val.device(), op, ": ", name, " must be on the device of min_val ",
                      min_val.device(), ", got ", range.device());
  }
  const std::pair<const char*, const at::Tensor&> counts[] = {{"nonfinite_count", nonfinite_count},
                                                              {"new_nonfinite", new_nonfinite}};
  for (const auto& [name, count] : counts) {
    TORCH_CHECK_TYPE(count.scalar_type() == at::kLong, op, ": ", name, " must be int64, got ", dtype_name(count.scalar_type()));
    TORCH_CHECK_VALUE(count.sym_numel() == 1, op, ": ", name, " must have one element, got ", count.sym_sizes());
  }
}

Observed fake_quantize_observed_symint(const at::Tensor& input, const at::Tensor& scale,
                                       const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                       int64_t quant_min, int64_t quant_max) {
  static const auto op = find_op<decltype(fake_quantize_observed_symint)>("torchqat::fake_quantize_observed");
  return op.call(input, scale, zero_point, block_size, quant_min, quant_max);
}

Observed fake_quantize_observed(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  return fake_quantize_observed_symint(input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
}

ObservedWithMask fake_quantize_observed_forward(const at::Tensor& input, const at::Tensor& scale,
                                                const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                                int64_t quant_min, int64_t quant_max) {
  static const auto op = find_op<decltype(fake_quantize_observed_forward)>("torchqat::_fake_quantize_observed_forward");
  return op.call(input, scale, zero_point, block_size, quant_min, quant_max);
}

std::tuple<at::Tensor, at::Tensor> merge_range_(at::Tensor& min_val, at::Tensor& max_val, at::Tensor& nonfinite_count,
                                                const at::Tensor& new_min, const at::Tensor& new_max,
                                                const at::Tensor& new_nonfinite, double averaging_constant, int64_t quant_min,
                                                int64_t quant_max, bool symmetric) {
  static const auto op = find_op<decltype(merge_range_)>("torchqat::merge_range_");
  return op.call(min_val, max_val, nonfinite_count, new_min, new_max, new_nonfinite, averaging_constant, quant_min, quant_max,
                 symmetric);
}

}  // namespace torchqat
