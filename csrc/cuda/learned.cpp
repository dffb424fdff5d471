// CUDA kernels of fake_quantize_learned and fake_quantize_pact. The gradients of scale and zero point are summed in double in a fixed order, which is not the
// CPU's order: they agree to float32's rounding, not bit for bit.
#include "ops/torch_headers.h"

#include <limits>

#include "cuda/device.h"
#include "cuda/kernels/learned.h"
#include "ops/learned.h"
#include "ops/qparams.h"

namespace torchqat::cuda {
namespace {

// The values that the forward uses: scale clamped from below, zero point on the grid.
struct UsedQParams {
  at::Tensor scale, zero_point;
  UsedQParams(const at::Tensor& s, const std::optional<at::Tensor>& z, at::ScalarType compute, int64_t quant_min,
              int64_t quant_max) {
    const double smallest = compute == at::kDouble ? std::numeric_limits<double>::min() : std::numeric_limits<float>::min();
    scale = in_type(s.detach(), compute).clamp_min(smallest);
    if (z.has_value()) zero_point = in_type(z->detach(), at::kDouble).round().clamp(quant_min, quant_max).to(compute);
  }
  const void* zero_point_data() const { return zero_point.defined() ? zero_point.const_data_ptr() : nullptr; }
};

at::Tensor run_forward(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                       at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x);
  const UsedQParams q(scale, zero_point, compute_type(x), quant_min, quant_max);
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), nullptr, q.scale.const_data_ptr(), q.zero_point_data(),
                        static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
  cuda::fake_quantize(args, float_type(x.scalar_type()), device.stream());
  return y;
}

at::Tensor forward(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                   at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned("fake_quantize_learned", input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min,
                              quant_max, grad_scale);
  return run_forward(input, scale, zero_point, block_size, quant_min, quant_max);
}

at::Tensor pact_forward(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size, int64_t quant_min,
                        int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned("fake_quantize_pact", input, scale, std::nullopt, c10::fromIntArrayRefSlow(block_size), quant_min,
                              quant_max, grad_scale);
  return run_forward(input, scale, std::nullopt, block_size, quant_min, quant_max);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> run_backward(const at::Tensor& grad, const at::Tensor& input,
                                                            const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                                            at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                                            double grad_scale, bool pact) {
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor dx = at::empty_like(x);
  const at::Tensor dy = grad.strides() == x.strides() ? grad : at::empty_like(x).copy_(grad);
  const UsedQParams q(scale, zero_point, compute_type(x), quant_min, quant_max);
  const bool with_zero_point = learns_zero_point(zero_point);
  const auto wide = x.options().dtype(at::kDouble);
  const at::Tensor ds = at::zeros(scale.sizes(), wide), dz = at::zeros(scale.sizes(), wide);
  const Blocks blocks = blocks_of(x, block_size);
  if (blocks.numel > 0) {
    const RangePlan plan = plan_range(blocks);
    const at::Tensor parts = at::empty({2, plan.chunks * blocks.scales}, wide);
    auto* part = parts.mutable_data_ptr<double>();
    const LearnedArgs args{&blocks, x.const_data_ptr(), dy.const_data_ptr(), dx.mutable_data_ptr(), q.scale.const_data_ptr(),
                           q.zero_point_data(), static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), part,
                           part + plan.chunks * blocks.scales, ds.mutable_data_ptr<double>(), dz.mutable_data_ptr<double>(),
                           grad_scale, pact};
    learned_backward(args, plan, float_type(x.scalar_type()), device.stream());
  }
  if (!with_zero_point) return {dx, ds.to(scale.scalar_type()), at::empty({0}, scale.options())};
  return {dx, ds.to(scale.scalar_type()), dz.view(zero_point->sizes()).to(zero_point->scalar_type())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
                                                        const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                                        int64_t quant_min, int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned_backward("_fake_quantize_learned_backward", grad, input, scale, zero_point,
                                       c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, grad_scale);
  return run_backward(grad, input, scale, zero_point, block_size, quant_min, quant_max, grad_scale, /*pact=*/false);
}

std::tuple<at::Tensor, at::Tensor> pact_backward(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
                                                 at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                                 double grad_scale) {
  check_fake_quantize_learned_backward("_fake_quantize_pact_backward", grad, input, scale, std::nullopt,
                                       c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, grad_scale);
  auto [dx, ds, dz] =
      run_backward(grad, input, scale, std::nullopt, block_size, quant_min, quant_max, grad_scale, /*pact=*/true);
  return {dx, ds};
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("fake_quantize_learned", &forward);
  m.impl("_fake_quantize_learned_backward", &backward);
  m.impl("fake_quantize_pact", &pact_forward);
  m.impl("_fake_quantize_pact_backward", &pact_backward);
}

}  // namespace
}  // namespace torchqat::cuda
