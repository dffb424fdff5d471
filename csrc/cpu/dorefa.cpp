// CPU kernels of dorefa_weight: the blocks' limits, then one pass; its backward takes one more over the few elements at a limit.
#include "ops/torch_headers.h"

#include "cpu/block_sums.h"
#include "cpu/kernels/dorefa.h"
#include "numerics/dorefa.h"
#include "ops/dorefa.h"
#include "ops/qparams.h"

namespace torchqat::cpu {
namespace {

const DorefaKernels& kernels() { return *select(&dorefa_scalar, &dorefa_avx2, &dorefa_avx512); }

// Each block's largest finite magnitude and its tanh, in the compute type.
struct Limits {
  at::Tensor largest, limit;
};

template <typename S>
Limits limits(const at::Tensor& x, const Blocks& blocks) {
  const auto options = x.options().dtype(c10::CppTypeToScalarType<S>::value);
  at::Tensor low = at::empty({blocks.scales}, options), high = at::empty({blocks.scales}, options);
  S *lo = low.mutable_data_ptr<S>(), *hi = high.mutable_data_ptr<S>();
  block_ranges(x, blocks, lo, hi);
  for (int64_t i = 0; i < blocks.scales; ++i) lo[i] = lo[i] > hi[i] ? S(0) : std::max(-lo[i], hi[i]);
  if constexpr (std::is_same_v<S, float>) {
    kernels().limits_f32(lo, blocks.scales, hi);
  } else {
    kernels().limits_f64(lo, blocks.scales, hi);
  }
  return {low, high};
}

Limits limits_of(const at::Tensor& x, const Blocks& blocks) {
  return compute_type(x) == at::kDouble ? limits<double>(x, blocks) : limits<float>(x, blocks);
}

at::Tensor dorefa_weight_cpu(const at::Tensor& input, at::IntArrayRef block_size) {
  check_dorefa_weight(input, c10::fromIntArrayRefSlow(block_size));
  const at::Tensor x = dense(input);
  at::Tensor y = output_like(x);
  if (x.numel() == 0) return y;
  const Blocks blocks = blocks_of(x, block_size);
  const at::Tensor limit = limits_of(x, blocks).limit;
  AffineArgs args{};
  args.blocks = &blocks;
  args.in = x.const_data_ptr();
  args.out = y.mutable_data_ptr();
  args.scale = limit.const_data_ptr();
  args.stream = streams(y);
  const auto kernel = kernels().forward[static_cast<int>(float_type(x.scalar_type()))];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

template <typename S>
void shares(const double* sum, const double* minus_limits, const Limits& of, S* share, S* threshold) {
  const S *limit = of.limit.const_data_ptr<S>(), *largest = of.largest.const_data_ptr<S>();
  for (int64_t i = 0; i < of.limit.numel(); ++i) {
    share[i] = numerics::dorefa_share(sum[i], -minus_limits[i] / static_cast<double>(limit[i]), limit[i]);
    threshold[i] = numerics::dorefa_threshold(largest[i], limit[i]);
  }
}

at::Tensor dorefa_weight_backward_cpu(const at::Tensor& grad, const at::Tensor& input, at::IntArrayRef block_size) {
  check_dorefa_weight_backward(grad, input, c10::fromIntArrayRefSlow(block_size));
  const at::Tensor x = dense(input);
  at::Tensor dx = output_like(x);
  if (x.numel() == 0) return dx;
  const at::Tensor dy = grad.strides() == x.strides() ? grad : at::empty_like(x).copy_(grad);
  const Blocks blocks = blocks_of(x, block_size);
  const Limits of = limits_of(x, blocks);
  const void* limit = of.limit.const_data_ptr();
  c10::SmallVector<double, 32> sums(2 * blocks.scales, 0.0);
  const int type = static_cast<int>(float_type(x.scalar_type()));
  const LearnedArgs args{&blocks, x.const_data_ptr(), dy.const_data_ptr(), dx.mutable_data_ptr(), limit, nullptr,
                         0, 1, nullptr, nullptr, /*stream=*/false};
  sum_blocks(args, kernels().backward[type], sums.data(), sums.data() + blocks.scales);
  const at::Tensor share = at::empty_like(of.limit), threshold = at::empty_like(of.limit);
  const double *sum = sums.data(), *minus_limits = sum + blocks.scales;
  if (share.scalar_type() == at::kDouble) {
    shares(sum, minus_limits, of, share.mutable_data_ptr<double>(), threshold.mutable_data_ptr<double>());
  } else {
    shares(sum, minus_limits, of, share.mutable_data_ptr<float>(), threshold.mutable_data_ptr<float>());
  }
  const AtLimitArgs at_limit{&blocks, x.const_data_ptr(), dx.mutable_data_ptr(), limit, share.const_data_ptr(),
                             threshold.const_data_ptr()};
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) { kernels().at_limit[type](at_limit, begin, end); });
  return dx;
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("dorefa_weight", &dorefa_weight_cpu);
  m.impl("_dorefa_weight_backward", &dorefa_weight_backward_cpu);
}

}  // namespace
}  // namespace torchqat::cpu
