// CPU kernels of observe_histogram_ and qparams_from_histogram. Counts are integers: threads combine in any order.
#include "ops/torch_headers.h"

#include <mutex>

#include "cpu/block_view.h"
#include "cpu/kernels/histogram.h"
#include "cpu/range_state.h"
#include "ops/histogram.h"

namespace torchqat::cpu {
namespace {

at::Tensor observe(const at::Tensor& input, at::Tensor& histogram, at::Tensor& bound, at::Tensor& min_val, at::Tensor& max_val,
                   at::Tensor& nonfinite_count) {
  check_observe_histogram(input, histogram, bound, min_val, max_val, nonfinite_count);
  const at::Tensor x = dense(input).to(at::kFloat);
  at::Tensor seen = at::empty({}, histogram.options());
  float lo, hi;
  const int64_t bad = block_ranges(x, blocks_of(x, {}), &lo, &hi);
  *nonfinite_count.mutable_data_ptr<int64_t>() += bad;
  *seen.mutable_data_ptr<int64_t>() = x.numel() - bad;
  if (lo > hi) return seen;
  float& limit = *bound.mutable_data_ptr<float>();
  const float needed = histogram_bound(std::max(-lo, hi));
  int64_t* counts = histogram.mutable_data_ptr<int64_t>();
  const int64_t bins = histogram.numel();
  if (limit == 0) limit = needed;
  for (; limit < needed; limit *= 2) widen_histogram(counts, bins);
  std::mutex mutex;
  at::parallel_for(0, x.numel(), std::max(grain, bins), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> own(bins);
    count_histogram(x.const_data_ptr<float>() + begin, end - begin, limit, bins, own.data());
    const std::lock_guard lock(mutex);
    for (int64_t j = 0; j < bins; ++j) counts[j] += own[j];
  });
  const at::Tensor new_lo = at::empty({1}, x.options()), new_hi = at::empty({1}, x.options());
  *new_lo.mutable_data_ptr<float>() = lo;
  *new_hi.mutable_data_ptr<float>() = hi;
  merge_into(min_val, max_val, new_lo, new_hi, /*averaging_constant=*/1.0);
  return seen;
}

std::tuple<at::Tensor, at::Tensor> qparams(const at::Tensor& histogram, const at::Tensor& bound, const at::Tensor& min_val,
                                           const at::Tensor& max_val, int64_t quant_min, int64_t quant_max, bool symmetric,
                                           c10::string_view method, double percentile) {
  check_qparams_from_histogram(histogram, bound, min_val, max_val, quant_min, quant_max, symmetric, method, percentile);
  const at::Tensor counts = histogram.contiguous();
  const Histogram h{counts.const_data_ptr<int64_t>(), counts.numel(), *bound.const_data_ptr<float>(),
                    *min_val.const_data_ptr<float>(), *max_val.const_data_ptr<float>()};
  const int low = static_cast<int>(quant_min), high = static_cast<int>(quant_max);
  const auto range = method == "mse" ? least_squares_range(h, low, high, symmetric, range_kernels().qparams_f32)
                                     : percentile_range(h, percentile, symmetric);
  at::Tensor scale = at::empty({}, bound.options()), zero_point = at::empty({}, bound.options().dtype(at::kInt));
  range_kernels().qparams_f32(&range.lo, &range.hi, 1, low, high, symmetric, scale.mutable_data_ptr<float>(),
                              zero_point.mutable_data_ptr<int32_t>());
  return {scale, zero_point};
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("observe_histogram_", &observe);
  m.impl("qparams_from_histogram", &qparams);
}

}  // namespace
}  // namespace torchqat::cpu
