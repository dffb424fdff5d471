// CUDA kernels of observe_histogram_ and qparams_from_histogram.
#include "ops/torch_headers.h"

#include "cuda/kernels/histogram.h"
#include "cuda/statistics.h"
#include "ops/histogram.h"

namespace torchqat::cuda {
namespace {

at::Tensor observe(const at::Tensor& input, at::Tensor& histogram, at::Tensor& bound, at::Tensor& min_val, at::Tensor& max_val,
                   at::Tensor& nonfinite_count) {
  check_observe_histogram(input, histogram, bound, min_val, max_val, nonfinite_count);
  const OnDevice device(input);
  at::Tensor x = dense(input);
  if (x.scalar_type() == at::kDouble) x = x.to(at::kFloat);
  at::Tensor seen = at::zeros({}, histogram.options());
  if (x.numel() == 0) return seen;
  const Blocks blocks = blocks_of(x, {});
  const PartialRanges parts(x, blocks);
  min_max(blocks, parts.plan, x.const_data_ptr(), float_type(x.scalar_type()), parts.view, device.stream());
  const at::Tensor wide = at::empty_like(histogram), step = at::empty({sizeof(HistogramStep)}, histogram.options().dtype(at::kByte));
  ObserveHistogram args{};
  args.input = x.const_data_ptr();
  args.type = float_type(x.scalar_type());
  args.numel = x.numel();
  args.plan = parts.plan;
  args.parts = parts.view;
  args.counts = histogram.mutable_data_ptr<int64_t>();
  args.wide = wide.mutable_data_ptr<int64_t>();
  args.bins = histogram.numel();
  args.bound = bound.mutable_data_ptr<float>();
  args.lo = min_val.mutable_data_ptr<float>();
  args.hi = max_val.mutable_data_ptr<float>();
  args.nonfinite = nonfinite_count.mutable_data_ptr<int64_t>();
  args.seen = seen.mutable_data_ptr<int64_t>();
  args.step = static_cast<HistogramStep*>(step.mutable_data_ptr());
  observe_histogram(args, device.stream());
  return seen;
}

std::tuple<at::Tensor, at::Tensor> qparams(const at::Tensor& histogram, const at::Tensor& bound, const at::Tensor& min_val,
                                           const at::Tensor& max_val, int64_t quant_min, int64_t quant_max, bool symmetric,
                                           c10::string_view method, double percentile) {
  check_qparams_from_histogram(histogram, bound, min_val, max_val, quant_min, quant_max, symmetric, method, percentile);
  const OnDevice device(histogram);
  const at::Tensor counts = histogram.contiguous();
  at::Tensor scale = at::empty({}, bound.options()), zero_point = at::empty({}, bound.options().dtype(at::kInt));
  HistogramQParams args{};
  args.counts = counts.const_data_ptr<int64_t>();
  args.bins = counts.numel();
  args.bound = bound.const_data_ptr<float>();
  args.lo = min_val.const_data_ptr<float>();
  args.hi = max_val.const_data_ptr<float>();
  args.least_squares = method == "mse";
  args.percentile = percentile;
  args.quant_min = static_cast<int32_t>(quant_min);
  args.quant_max = static_cast<int32_t>(quant_max);
  args.symmetric = symmetric;
  args.scale = scale.mutable_data_ptr<float>();
  args.zero_point = zero_point.mutable_data_ptr<int32_t>();
  histogram_qparams(args, device.stream());
  return {scale, zero_point};
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("observe_histogram_", &observe);
  m.impl("qparams_from_histogram", &qparams);
}

}  // namespace
}  // namespace torchqat::cuda
