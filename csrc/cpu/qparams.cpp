// CPU kernels of choose_qparams, qparams_from_range and observe_minmax_.
#include "ops/torch_headers.h"

#include "cpu/block_view.h"
#include "cpu/kernels/quantize_groups.h"
#include "cpu/output.h"
#include "cpu/range_state.h"
#include "numerics/qparams.h"
#include "ops/qparams.h"

namespace torchqat::cpu {

int64_t range_tensors(const at::Tensor& dense, const Blocks& blocks, const at::Tensor& lo, const at::Tensor& hi) {
  if (lo.numel() == 0) return 0;
  if (lo.scalar_type() == at::kDouble) {
    return block_ranges(dense, blocks, lo.mutable_data_ptr<double>(), hi.mutable_data_ptr<double>());
  }
  return block_ranges(dense, blocks, lo.mutable_data_ptr<float>(), hi.mutable_data_ptr<float>());
}

void merge_into(const at::Tensor& min_val, const at::Tensor& max_val, const at::Tensor& new_min, const at::Tensor& new_max,
                double averaging_constant) {
  const auto type = new_min.scalar_type();
  const at::Tensor running_lo = min_val.to(type).contiguous(), running_hi = max_val.to(type).contiguous();
  const auto update = [&](auto zero) {
    using S = decltype(zero);
    const S *l = new_min.const_data_ptr<S>(), *h = new_max.const_data_ptr<S>();
    S *run_l = running_lo.mutable_data_ptr<S>(), *run_h = running_hi.mutable_data_ptr<S>();
    for (int64_t i = 0; i < new_min.numel(); ++i) {
      numerics::merge_range(l[i], h[i], static_cast<S>(averaging_constant), run_l[i], run_h[i]);
    }
  };
  if (type == at::kDouble) {
    update(0.0);
  } else {
    update(0.0f);
  }
  if (!running_lo.is_same(min_val)) min_val.copy_(running_lo);
  if (!running_hi.is_same(max_val)) max_val.copy_(running_hi);
}

std::tuple<at::Tensor, at::Tensor> qparams_of_range(const at::Tensor& min_val, const at::Tensor& max_val, int64_t quant_min,
                                                    int64_t quant_max, bool symmetric) {
  const auto compute = compute_type(min_val);
  const at::Tensor lo = min_val.to(compute).contiguous(), hi = max_val.to(compute).contiguous();
  at::Tensor scale = at::empty(min_val.sizes(), lo.options());
  at::Tensor zero_point = at::empty(min_val.sizes(), lo.options().dtype(at::kInt));
  const int low = static_cast<int>(quant_min), high = static_cast<int>(quant_max);
  int32_t* z = zero_point.mutable_data_ptr<int32_t>();
  if (compute == at::kDouble) {
    range_kernels().qparams_f64(lo.const_data_ptr<double>(), hi.const_data_ptr<double>(), lo.numel(), low, high, symmetric,
                                scale.mutable_data_ptr<double>(), z);
  } else {
    range_kernels().qparams_f32(lo.const_data_ptr<float>(), hi.const_data_ptr<float>(), lo.numel(), low, high, symmetric,
                                scale.mutable_data_ptr<float>(), z);
  }
  return {scale, zero_point};
}

std::tuple<at::Tensor, at::Tensor> observe_minmax(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                  at::Tensor& nonfinite_count, at::IntArrayRef block_size,
                                                  double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                  bool symmetric) {
  check_observe_minmax(input, min_val, max_val, nonfinite_count, c10::fromIntArrayRefSlow(block_size), averaging_constant,
                       quant_min, quant_max, symmetric);
  const at::Tensor x = dense(input);
  const Blocks blocks = blocks_of(x, block_size);
  if (min_val.numel() == 1 && min_val.scalar_type() == at::kFloat && max_val.scalar_type() == at::kFloat &&
      compute_type(x) == at::kFloat) {
    // The usual range is taken in where it lies: tensors of one element would cost more than a small input.
    float lo = 0, hi = 0;
    *nonfinite_count.mutable_data_ptr<int64_t>() += block_ranges(x, blocks, &lo, &hi);
    float *low = min_val.mutable_data_ptr<float>(), *high = max_val.mutable_data_ptr<float>();
    numerics::merge_range(lo, hi, static_cast<float>(averaging_constant), *low, *high);
    at::Tensor scale = result_of(min_val.sizes(), at::kFloat), zero_point = result_of(min_val.sizes(), at::kInt);
    range_kernels().qparams_f32(low, high, 1, static_cast<int>(quant_min), static_cast<int>(quant_max), symmetric,
                                scale.mutable_data_ptr<float>(), zero_point.mutable_data_ptr<int32_t>());
    return {scale, zero_point};
  }
  const auto options = x.options().dtype(compute_type(x));
  const at::Tensor lo = at::empty({min_val.numel()}, options), hi = at::empty({min_val.numel()}, options);
  *nonfinite_count.mutable_data_ptr<int64_t>() += range_tensors(x, blocks, lo, hi);
  merge_into(min_val, max_val, lo, hi, averaging_constant);
  return qparams_of_range(min_val, max_val, quant_min, quant_max, symmetric);
}

namespace {

int32_t zero_between(int64_t quant_min, int64_t quant_max) {
  return static_cast<int32_t>(std::clamp<int64_t>(0, quant_min, quant_max));
}

// Symmetric scales of short groups along a matrix's rows. False where it is not that, or not all of it is finite.
bool group_scales_of(const at::Tensor& x, at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                     const at::Tensor& scale) {
  if (x.dim() != 2 || !x.is_contiguous() || block_size.size() != 2 || block_size[0] != 1 || scale.scalar_type() != at::kFloat) {
    return false;
  }
  const int64_t group = block_size[1];
  if (group <= 0 || group > 256 || group % 16 != 0 || x.size(1) % group != 0) return false;
  GroupScales g;
  g.input = x.const_data_ptr();
  g.type = x.scalar_type() == at::kBFloat16 ? FloatType::bfloat16
           : x.scalar_type() == at::kHalf   ? FloatType::float16
                                            : FloatType::float32;
  g.group = group;
  g.quant_min = static_cast<float>(quant_min);
  g.quant_max = static_cast<float>(quant_max);
  g.scale = scale.mutable_data_ptr<float>();
  const auto kernel = select<GroupScalesFn>(&group_scales_scalar, &group_scales_avx2, &group_scales_avx512);
  std::atomic<bool> finite{true};
  at::parallel_for(0, scale.numel(), std::max<int64_t>(1, 32768 / group), [&](int64_t begin, int64_t end) {
    if (!kernel(g, begin, end)) finite = false;
  });
  return finite;
}

std::tuple<at::Tensor, at::Tensor> choose_qparams(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min,
                                                  int64_t quant_max, bool symmetric) {
  const auto shape = C10_AS_INTARRAYREF_SLOW(check_choose_qparams("choose_qparams", input, c10::fromIntArrayRefSlow(block_size),
                                                                  quant_min, quant_max, symmetric));
  const at::Tensor x = dense(input);
  at::Tensor scale = at::empty(shape, x.options().dtype(compute_type(x)));
  at::Tensor zero_point = at::empty(shape, x.options().dtype(at::kInt));
  if (scale.numel() == 0) return {scale, zero_point};
  if (symmetric && group_scales_of(x, block_size, quant_min, quant_max, scale)) {
    std::fill_n(zero_point.mutable_data_ptr<int32_t>(), zero_point.numel(), zero_between(quant_min, quant_max));
    return {scale, zero_point};
  }
  const Blocks blocks = blocks_of(x, block_size);
  block_qparams(x, blocks, quant_min, quant_max, symmetric, scale.mutable_data_ptr(), zero_point.mutable_data_ptr<int32_t>());
  return {scale, zero_point};
}

std::tuple<at::Tensor, at::Tensor> qparams_from_range(const at::Tensor& min_val, const at::Tensor& max_val, int64_t quant_min,
                                                      int64_t quant_max, bool symmetric) {
  check_qparams_from_range(min_val, max_val, quant_min, quant_max, symmetric);
  return qparams_of_range(min_val, max_val, quant_min, quant_max, symmetric);
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("choose_qparams", &choose_qparams);
  m.impl("qparams_from_range", &qparams_from_range);
  m.impl("observe_minmax_", &observe_minmax);
}

}  // namespace
}  // namespace torchqat::cpu
