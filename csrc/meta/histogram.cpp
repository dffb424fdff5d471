// Shapes of observe_histogram_ and qparams_from_histogram.
#include "ops/torch_headers.h"

#include "ops/histogram.h"

namespace torchqat {
namespace {

at::Tensor observe(const at::Tensor& input, at::Tensor& histogram, at::Tensor& bound, at::Tensor& min_val, at::Tensor& max_val,
                   at::Tensor& nonfinite_count) {
  check_observe_histogram(input, histogram, bound, min_val, max_val, nonfinite_count);
  return at::empty({}, histogram.options());
}

std::tuple<at::Tensor, at::Tensor> qparams(const at::Tensor& histogram, const at::Tensor& bound, const at::Tensor& min_val,
                                           const at::Tensor& max_val, int64_t quant_min, int64_t quant_max, bool symmetric,
                                           c10::string_view method, double percentile) {
  check_qparams_from_histogram(histogram, bound, min_val, max_val, quant_min, quant_max, symmetric, method, percentile);
  return {at::empty({}, bound.options()), at::empty({}, bound.options().dtype(at::kInt))};
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("observe_histogram_", &observe);
  m.impl("qparams_from_histogram", &qparams);
}

}  // namespace
}  // namespace torchqat
