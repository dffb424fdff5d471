// Schemas, checks and C++ entry points of observe_histogram_ and qparams_from_histogram.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/histogram.h"
#include "ops/qparams.h"
#include "torchqat/histogram.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "observe_histogram_(Tensor input, Tensor(a!) histogram, Tensor(b!) bound, Tensor(c!) min_val, Tensor(d!) max_val, "
      "Tensor(e!) nonfinite_count) -> Tensor");
  m.def(
      "qparams_from_histogram(Tensor histogram, Tensor bound, Tensor min_val, Tensor max_val, int quant_min, int quant_max, "
      "bool symmetric, str method, float percentile=99.99) -> (Tensor scale, Tensor zero_point)");
}

namespace {

void check_state(const char* op, const at::Tensor& histogram, const at::Tensor& bound, const at::Tensor& min_val,
                 const at::Tensor& max_val) {
  TORCH_CHECK_TYPE(histogram.scalar_type() == at::kLong, op, ": histogram must be int64, got ",
                   dtype_name(histogram.scalar_type()));
  TORCH_CHECK_VALUE(histogram.dim() == 1 && histogram.size(0) >= 16 && (histogram.size(0) & (histogram.size(0) - 1)) == 0 &&
                        histogram.size(0) <= (int64_t{1} << 24),
                    op, ": histogram must be 1-D with a power of two of bins from 16 to 2^24, got ", histogram.sym_sizes());
  const std::pair<const char*, const at::Tensor&> parts[] = {{"bound", bound}, {"min_val", min_val}, {"max_val", max_val}};
  for (const auto& [name, part] : parts) {
    TORCH_CHECK_TYPE(part.scalar_type() == at::kFloat, op, ": ", name, " must be float32, got ", dtype_name(part.scalar_type()));
    TORCH_CHECK_VALUE(part.sym_numel() == 1, op, ": ", name, " must have one element, got ", part.sym_sizes());
    TORCH_CHECK_VALUE(part.device() == histogram.device(), op, ": ", name, " must be on the histogram's device ",
                      histogram.device(), ", got ", part.device());
  }
}

}  // namespace

void check_observe_histogram(const at::Tensor& input, const at::Tensor& histogram, const at::Tensor& bound,
                             const at::Tensor& min_val, const at::Tensor& max_val, const at::Tensor& nonfinite_count) {
  const char* op = "observe_histogram_";
  check_floating(op, "input", input);
  check_state(op, histogram, bound, min_val, max_val);
  TORCH_CHECK_VALUE(histogram.is_contiguous(), op, ": histogram must be contiguous");
  TORCH_CHECK_VALUE(histogram.device() == input.device(), op, ": histogram must be on the input's device ", input.device(),
                    ", got ", histogram.device());
  TORCH_CHECK_TYPE(nonfinite_count.scalar_type() == at::kLong, op, ": nonfinite_count must be int64, got ",
                   dtype_name(nonfinite_count.scalar_type()));
  TORCH_CHECK_VALUE(nonfinite_count.sym_numel() == 1, op, ": nonfinite_count must have one element, got ",
                    nonfinite_count.sym_sizes());
}

void check_qparams_from_histogram(const at::Tensor& histogram, const at::Tensor& bound, const at::Tensor& min_val,
                                  const at::Tensor& max_val, int64_t quant_min, int64_t quant_max, bool symmetric,
                                  c10::string_view method, double percentile) {
  const char* op = "qparams_from_histogram";
  check_state(op, histogram, bound, min_val, max_val);
  check_chosen_grid(op, quant_min, quant_max, symmetric);
  TORCH_CHECK_VALUE(method == "percentile" || method == "mse", op, ": method must be 'percentile' or 'mse', got '", method, "'");
  TORCH_CHECK_VALUE(percentile > 50 && percentile <= 100, op, ": percentile must be in (50, 100], got ", percentile);
}

at::Tensor observe_histogram_(const at::Tensor& input, at::Tensor& histogram, at::Tensor& bound, at::Tensor& min_val,
                              at::Tensor& max_val, at::Tensor& nonfinite_count) {
  static const auto op = find_op<decltype(observe_histogram_)>("torchqat::observe_histogram_");
  return op.call(input, histogram, bound, min_val, max_val, nonfinite_count);
}

std::tuple<at::Tensor, at::Tensor> qparams_from_histogram(const at::Tensor& histogram, const at::Tensor& bound,
                                                          const at::Tensor& min_val, const at::Tensor& max_val,
                                                          int64_t quant_min, int64_t quant_max, bool symmetric,
                                                          c10::string_view method, double percentile) {
  static const auto op = find_op<decltype(qparams_from_histogram)>("torchqat::qparams_from_histogram");
  return op.call(histogram, bound, min_val, max_val, quant_min, quant_max, symmetric, method, percentile);
}

}  // namespace torchqat
