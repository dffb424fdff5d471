// CUDA kernels of choose_qparams, qparams_from_range and observe_minmax_.
#include "ops/torch_headers.h"

#include "cuda/statistics.h"
#include "ops/qparams.h"

namespace torchqat::cuda {

PartialRanges::PartialRanges(const at::Tensor& x, const Blocks& blocks) : plan(plan_range(blocks)) {
  lo = at::empty({plan.chunks * blocks.scales}, x.options().dtype(compute_type(x)));
  hi = at::empty_like(lo);
  skipped = at::empty({plan.chunks * blocks.scales}, x.options().dtype(at::kInt));
  view = {lo.mutable_data_ptr(), hi.mutable_data_ptr(), skipped.mutable_data_ptr<int32_t>()};
}

void block_qparams(const at::Tensor& x, const Blocks& blocks, const Statistics& statistics, const at::Tensor& scale,
                   const at::Tensor& zero_point, const at::Tensor& zero_point_value, Stream stream) {
  RangeFinish finish{};
  finish.scales = scale.numel();
  if (finish.scales == 0) return;
  std::optional<PartialRanges> parts;  // its memory is in use until the last kernel is launched
  if (blocks.numel > 0) {
    parts.emplace(x, blocks);
    finish.chunks = parts->plan.chunks;
    finish.parts = parts->view;
    min_max(blocks, parts->plan, x.const_data_ptr(), float_type(x.scalar_type()), finish.parts, stream);
  }
  if (statistics.running_lo.defined()) {
    finish.running_lo = statistics.running_lo.mutable_data_ptr();
    finish.running_hi = statistics.running_hi.mutable_data_ptr();
  }
  finish.averaging = statistics.averaging;
  finish.nonfinite = statistics.nonfinite.defined() ? statistics.nonfinite.mutable_data_ptr<int64_t>() : nullptr;
  finish.quant_min = static_cast<int32_t>(statistics.quant_min);
  finish.quant_max = static_cast<int32_t>(statistics.quant_max);
  finish.symmetric = statistics.symmetric;
  finish.scale = scale.mutable_data_ptr();
  finish.zero_point = zero_point.mutable_data_ptr<int32_t>();
  finish.zero_point_value = zero_point_value.defined() ? zero_point_value.mutable_data_ptr() : nullptr;
  finish_range(finish, scale.scalar_type() == at::kDouble, stream);
}

std::tuple<at::Tensor, at::Tensor> qparams_of_range(const at::Tensor& lo, const at::Tensor& hi, int64_t quant_min,
                                                    int64_t quant_max, bool symmetric, Stream stream) {
  const auto compute = compute_type(lo);
  Statistics statistics;
  statistics.running_lo = in_type(lo, compute);
  statistics.running_hi = in_type(hi, compute);
  statistics.quant_min = quant_min;
  statistics.quant_max = quant_max;
  statistics.symmetric = symmetric;
  at::Tensor scale = at::empty(lo.sizes(), statistics.running_lo.options());
  at::Tensor zero_point = at::empty(lo.sizes(), scale.options().dtype(at::kInt));
  Blocks none;
  none.numel = 0;
  block_qparams(lo, none, statistics, scale, zero_point, {}, stream);
  return {scale, zero_point};
}

namespace {

std::tuple<at::Tensor, at::Tensor> choose_qparams(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min,
                                                  int64_t quant_max, bool symmetric) {
  const auto shape = C10_AS_INTARRAYREF_SLOW(check_choose_qparams("choose_qparams", input, c10::fromIntArrayRefSlow(block_size),
                                                                  quant_min, quant_max, symmetric));
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor scale = at::empty(shape, x.options().dtype(compute_type(x)));
  at::Tensor zero_point = at::empty(shape, x.options().dtype(at::kInt));
  Statistics statistics;
  statistics.quant_min = quant_min;
  statistics.quant_max = quant_max;
  statistics.symmetric = symmetric;
  block_qparams(x, blocks_of(x, block_size), statistics, scale, zero_point, {}, device.stream());
  return {scale, zero_point};
}

std::tuple<at::Tensor, at::Tensor> qparams_from_range(const at::Tensor& min_val, const at::Tensor& max_val, int64_t quant_min,
                                                      int64_t quant_max, bool symmetric) {
  check_qparams_from_range(min_val, max_val, quant_min, quant_max, symmetric);
  const OnDevice device(min_val);
  return qparams_of_range(min_val, max_val, quant_min, quant_max, symmetric, device.stream());
}

std::tuple<at::Tensor, at::Tensor> observe_minmax(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                  at::Tensor& nonfinite_count, at::IntArrayRef block_size,
                                                  double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                  bool symmetric) {
  check_observe_minmax(input, min_val, max_val, nonfinite_count, c10::fromIntArrayRefSlow(block_size), averaging_constant,
                       quant_min, quant_max, symmetric);
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  const auto compute = compute_type(x);
  Statistics statistics;
  statistics.running_lo = in_type(min_val, compute);
  statistics.running_hi = in_type(max_val, compute);
  statistics.averaging = averaging_constant;
  statistics.nonfinite = nonfinite_count;
  statistics.quant_min = quant_min;
  statistics.quant_max = quant_max;
  statistics.symmetric = symmetric;
  at::Tensor scale = at::empty(min_val.sizes(), x.options().dtype(compute));
  at::Tensor zero_point = at::empty(min_val.sizes(), x.options().dtype(at::kInt));
  block_qparams(x, blocks_of(x, block_size), statistics, scale, zero_point, {}, device.stream());
  if (!statistics.running_lo.is_same(min_val)) min_val.copy_(statistics.running_lo);
  if (!statistics.running_hi.is_same(max_val)) max_val.copy_(statistics.running_hi);
  if (min_val.scalar_type() == compute) return {scale, zero_point};
  // The state rounds what it is given: the scale follows from what it holds.
  return qparams_of_range(min_val, max_val, quant_min, quant_max, symmetric, device.stream());
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("choose_qparams", &choose_qparams);
  m.impl("qparams_from_range", &qparams_from_range);
  m.impl("observe_minmax_", &observe_minmax);
}

}  // namespace
}  // namespace torchqat::cuda
