// CUDA kernels of dorefa_weight. The gradient's sums are in double in a fixed order that is not the CPU's: what reaches the elements at a
// block's limit agrees to float32's rounding, everything else bit for bit.
#include "ops/torch_headers.h"

#include <limits>

#include "cuda/kernels/dorefa.h"
#include "cuda/statistics.h"
#include "ops/dorefa.h"
#include "ops/qparams.h"

namespace torchqat::cuda {
namespace {

at::Tensor limits_of(const at::Tensor& x, const Blocks& blocks, Stream stream) {
  Statistics range;
  const auto options = x.options().dtype(compute_type(x));
  range.running_lo = at::full({blocks.scales}, std::numeric_limits<double>::infinity(), options);
  range.running_hi = at::full({blocks.scales}, -std::numeric_limits<double>::infinity(), options);
  range.quant_min = -1;
  range.quant_max = 1;
  range.symmetric = true;
  const at::Tensor limit = at::empty({blocks.scales}, options);
  block_qparams(x, blocks, range, limit, at::empty({blocks.scales}, x.options().dtype(at::kInt)), {}, stream);
  dorefa_limits(range.running_lo.const_data_ptr(), range.running_hi.const_data_ptr(), blocks.scales, limit.mutable_data_ptr(),
                limit.scalar_type() == at::kDouble, stream);
  return limit;
}

at::Tensor dorefa_weight_cuda(const at::Tensor& input, at::IntArrayRef block_size) {
  check_dorefa_weight(input, c10::fromIntArrayRefSlow(block_size));
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x);
  if (x.numel() == 0) return y;
  const Blocks blocks = blocks_of(x, block_size);
  const at::Tensor limit = limits_of(x, blocks, device.stream());
  AffineArgs args{};
  args.blocks = &blocks;
  args.in = x.const_data_ptr();
  args.out = y.mutable_data_ptr();
  args.scale = limit.const_data_ptr();
  dorefa_forward(args, float_type(x.scalar_type()), device.stream());
  return y;
}

at::Tensor dorefa_weight_backward_cuda(const at::Tensor& grad, const at::Tensor& input, at::IntArrayRef block_size) {
  check_dorefa_weight_backward(grad, input, c10::fromIntArrayRefSlow(block_size));
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor dx = at::empty_like(x);
  if (x.numel() == 0) return dx;
  const at::Tensor dy = grad.strides() == x.strides() ? grad : at::empty_like(x).copy_(grad);
  const Blocks blocks = blocks_of(x, block_size);
  const at::Tensor limit = limits_of(x, blocks, device.stream()), share = at::empty_like(limit);
  const RangePlan plan = plan_range(blocks);
  const auto wide = x.options().dtype(at::kDouble);
  const at::Tensor parts = at::empty({2, plan.chunks * blocks.scales}, wide), sums = at::empty({2, blocks.scales}, wide);
  auto* part = parts.mutable_data_ptr<double>();
  auto* sum = sums.mutable_data_ptr<double>();
  const LearnedArgs args{&blocks, x.const_data_ptr(), dy.const_data_ptr(), dx.mutable_data_ptr(), limit.const_data_ptr(), nullptr,
                         0, 1, part, part + plan.chunks * blocks.scales, sum, sum + blocks.scales, /*grad_scale=*/1.0, /*pact=*/false};
  dorefa_backward(args, share.mutable_data_ptr(), plan, float_type(x.scalar_type()), device.stream());
  return dx;
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("dorefa_weight", &dorefa_weight_cuda);
  m.impl("_dorefa_weight_backward", &dorefa_weight_backward_cuda);
}

}  // namespace
}  // namespace torchqat::cuda
