// CUDA kernels of fake_quantize_observed and merge_range_.
#include "ops/torch_headers.h"

#include <limits>

#include "cuda/kernels/observed.h"
#include "cuda/statistics.h"
#include "ops/observed.h"
#include "ops/qparams.h"

namespace torchqat::cuda {
namespace {

ObservedWithMask observe(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, bool with_mask) {
  const auto shape = C10_AS_INTARRAYREF_SLOW(check_fake_quantize_observed(
      input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max));
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  const auto options = x.options().dtype(compute_type(x));
  at::Tensor y = at::empty_like(x), lo = at::empty(shape, options), hi = at::empty(shape, options), mask;
  at::Tensor nonfinite = at::zeros({}, x.options().dtype(at::kLong));
  if (with_mask) mask = empty_mask(x);
  if (x.numel() == 0) {
    lo.fill_(std::numeric_limits<double>::infinity());
    hi.fill_(-std::numeric_limits<double>::infinity());
    return {y, lo, hi, nonfinite, mask};
  }
  const QParamsView q(scale, zero_point, compute_type(x));
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), with_mask ? mask.mutable_data_ptr<uint8_t>() : nullptr,
                        q.scale_data(), q.zero_point_data(), static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
  const PartialRanges parts(x, blocks);
  cuda::fake_quantize_observed(args, parts.plan, parts.view, float_type(x.scalar_type()), device.stream());
  RangeFinish finish{};
  finish.scales = blocks.scales;
  finish.chunks = parts.plan.chunks;
  finish.parts = parts.view;
  finish.running_lo = lo.mutable_data_ptr();
  finish.running_hi = hi.mutable_data_ptr();
  finish.averaging = 1;
  finish.fresh = true;
  finish.nonfinite = nonfinite.mutable_data_ptr<int64_t>();
  finish_range(finish, lo.scalar_type() == at::kDouble, device.stream());
  return {y, lo, hi, nonfinite, mask};
}

Observed observed(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                  at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  auto [y, lo, hi, nonfinite, mask] = observe(input, scale, zero_point, block_size, quant_min, quant_max, false);
  return {y, lo, hi, nonfinite};
}

ObservedWithMask observed_forward(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                  at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  return observe(input, scale, zero_point, block_size, quant_min, quant_max, true);
}

std::tuple<at::Tensor, at::Tensor> merge_range(at::Tensor& min_val, at::Tensor& max_val, at::Tensor& nonfinite_count,
                                               const at::Tensor& new_min, const at::Tensor& new_max,
                                               const at::Tensor& new_nonfinite, double averaging_constant, int64_t quant_min,
                                               int64_t quant_max, bool symmetric) {
  check_merge_range(min_val, max_val, nonfinite_count, new_min, new_max, new_nonfinite, averaging_constant, quant_min, quant_max,
                    symmetric);
  const OnDevice device(min_val);
  const auto compute = compute_type(new_min);
  const at::Tensor lo = in_type(new_min, compute), hi = in_type(new_max, compute);
  const at::Tensor running_lo = in_type(min_val, compute), running_hi = in_type(max_val, compute);
  at::Tensor scale = at::empty(min_val.sizes(), lo.options()), zero_point = at::empty(min_val.sizes(), lo.options().dtype(at::kInt));
  RangeFinish finish{};
  finish.scales = lo.numel();
  finish.chunks = 1;
  finish.parts = {lo.data_ptr(), hi.data_ptr(), nullptr};
  finish.running_lo = running_lo.mutable_data_ptr();
  finish.running_hi = running_hi.mutable_data_ptr();
  finish.averaging = averaging_constant;
  finish.quant_min = static_cast<int32_t>(quant_min);
  finish.quant_max = static_cast<int32_t>(quant_max);
  finish.symmetric = symmetric;
  finish.scale = scale.mutable_data_ptr();
  finish.zero_point = zero_point.mutable_data_ptr<int32_t>();
  finish_range(finish, compute == at::kDouble, device.stream());
  if (!running_lo.is_same(min_val)) min_val.copy_(running_lo);
  if (!running_hi.is_same(max_val)) max_val.copy_(running_hi);
  nonfinite_count.add_(new_nonfinite.view(nonfinite_count.sizes()));
  if (min_val.scalar_type() == compute) return {scale, zero_point};
  return qparams_of_range(min_val, max_val, quant_min, quant_max, symmetric, device.stream());
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("fake_quantize_observed", &observed);
  m.impl("_fake_quantize_observed_forward", &observed_forward);
  m.impl("merge_range_", &merge_range);
}

}  // namespace
}  // namespace torchqat::cuda
