// CPU kernels of fake_quantize_learned and fake_quantize_pact: tensors to pointers, threads, the fixed order of the scale's sums.
#include "ops/torch_headers.h"

#include <ATen/EmptyTensor.h>

#include <cmath>

#include "cpu/block_sums.h"
#include "cpu/block_view.h"
#include "cpu/kernels/learned.h"
#include "cpu/output.h"
#include "cpu/scalar_value.h"
#include "numerics/learned.h"
#include "ops/learned.h"
#include "ops/qparams.h"

namespace torchqat::cpu {
namespace {

const LearnedKernels& learned_kernels() { return *select(&learned_scalar, &learned_avx2, &learned_avx512); }

// The values that the forward uses: scale clamped from below, zero point on the grid.
class UsedQParams {
 public:
  UsedQParams(const char* op, const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
              int64_t quant_min, int64_t quant_max) {
    compute_type(x) == at::kDouble ? take_scale<double>(op, scale) : take_scale<float>(op, scale);
    if (zero_point.has_value()) take_zero_point(op, *zero_point, quant_min, quant_max);
  }
  UsedQParams(const UsedQParams&) = delete;
  const void* scale() const { return scale_.data(); }
  const int32_t* zero_point() const { return zero_point_.empty() ? nullptr : zero_point_.data(); }

 private:
  template <typename S>
  void take_scale(const char* op, const at::Tensor& scale) {
    constexpr auto compute = c10::CppTypeToScalarType<S>::value;
    const at::Tensor given = scale.scalar_type() == compute && scale.is_contiguous() ? scale : scale.to(compute).contiguous();
    const S* from = given.const_data_ptr<S>();
    const int64_t n = given.numel();
    scale_.resize(n);  // room for floats too
    S* to = reinterpret_cast<S*>(scale_.data());
    for (int64_t i = 0; i < n; ++i) {
      TORCH_CHECK_VALUE(std::isfinite(from[i]), op, ": scale must be finite, got ", from[i], " at entry ", i);
      to[i] = numerics::learned_scale(from[i]);
    }
  }

  void take_zero_point(const char* op, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max) {
    const double low = static_cast<double>(quant_min), high = static_cast<double>(quant_max);
    if (in_place(zero_point, at::kInt)) {  // without the dispatcher, whose calls a small input would notice
      zero_point_.push_back(static_cast<int32_t>(numerics::learned_zero_point(number_value(zero_point), low, high)));
      return;
    }
    const at::Tensor points = zero_point.to(at::kDouble).contiguous();
    const double* z = points.const_data_ptr<double>();
    zero_point_.resize(points.numel());
    for (int64_t i = 0; i < points.numel(); ++i) {
      TORCH_CHECK_VALUE(std::isfinite(z[i]), op, ": zero_point must be finite, got ", z[i], " at entry ", i);
      zero_point_[i] = static_cast<int32_t>(numerics::learned_zero_point(z[i], low, high));
    }
  }

  c10::SmallVector<double, 16> scale_;
  c10::SmallVector<int32_t, 16> zero_point_;
};

at::Tensor run_forward(const char* op, const at::Tensor& input, const at::Tensor& scale,
                       const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size, int64_t quant_min,
                       int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned(op, input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max,
                              grad_scale);
  const at::Tensor x = dense(input);
  at::Tensor y = result_like(x);
  const UsedQParams q(op, x, scale, zero_point, quant_min, quant_max);
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), nullptr, q.scale(), q.zero_point(),
                        static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), streams(y)};
  const auto kernel = affine_kernels().fake_quantize[static_cast<int>(float_type(x.scalar_type()))];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

at::Tensor forward(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                   at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, double grad_scale) {
  return run_forward("fake_quantize_learned", input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
}

at::Tensor pact_forward(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size, int64_t quant_min,
                        int64_t quant_max, double grad_scale) {
  return run_forward("fake_quantize_pact", input, scale, std::nullopt, block_size, quant_min, quant_max, grad_scale);
}

// kernels: the rule's, by Float.
std::tuple<at::Tensor, at::Tensor, at::Tensor> run_backward(void (*const kernels[4])(const LearnedArgs&, int64_t, int64_t),
                                                            const at::Tensor& grad, const at::Tensor& input,
                                                            const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                                            at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                                            double grad_scale) {
  const at::Tensor x = dense(input);
  at::Tensor dx = result_like(x);
  const at::Tensor dy = grad.strides() == x.strides() ? grad : at::empty_like(x).copy_(grad);
  const UsedQParams q("fake_quantize_learned", x, scale, zero_point, quant_min, quant_max);
  const bool with_zero_point = learns_zero_point(zero_point);
  const int64_t entries = scale.numel();
  c10::SmallVector<double, 32> sums(entries * (with_zero_point ? 2 : 1), 0.0);
  double* dz = with_zero_point ? sums.data() + entries : nullptr;
  const Blocks blocks = blocks_of(x, block_size);
  if (blocks.numel > 0) {
    const LearnedArgs args{&blocks, x.const_data_ptr(), dy.const_data_ptr(), dx.mutable_data_ptr(), q.scale(),
                           q.zero_point(), static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), nullptr, nullptr,
                           streams(dx)};
    sum_blocks(args, kernels[static_cast<int>(float_type(x.scalar_type()))], sums.data(), dz);
  }
  const auto finish = [&](const double* sum, const at::Tensor& like) {
    at::Tensor result = at::detail::empty_cpu(like.sizes(), like.scalar_type() == at::kFloat ? at::kFloat : at::kDouble);
    if (result.scalar_type() == at::kFloat) {
      float* to = result.mutable_data_ptr<float>();
      for (int64_t i = 0; i < entries; ++i) to[i] = static_cast<float>(sum[i] * grad_scale);
    } else {
      double* to = result.mutable_data_ptr<double>();
      for (int64_t i = 0; i < entries; ++i) to[i] = sum[i] * grad_scale;
    }
    return result.scalar_type() == like.scalar_type() ? result : result.to(like.scalar_type());
  };
  return {dx, finish(sums.data(), scale), with_zero_point ? finish(dz, *zero_point) : at::detail::empty_cpu({0}, scale.scalar_type())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
                                                        const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                                        int64_t quant_min, int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned_backward("_fake_quantize_learned_backward", grad, input, scale, zero_point,
                                       c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, grad_scale);
  return run_backward(learned_kernels().backward, grad, input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
}

std::tuple<at::Tensor, at::Tensor> pact_backward(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
                                                 at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                                 double grad_scale) {
  check_fake_quantize_learned_backward("_fake_quantize_pact_backward", grad, input, scale, std::nullopt,
                                       c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, grad_scale);
  auto [dx, ds, dz] =
      run_backward(learned_kernels().pact, grad, input, scale, std::nullopt, block_size, quant_min, quant_max, grad_scale);
  return {dx, ds};
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("fake_quantize_learned", &forward);
  m.impl("_fake_quantize_learned_backward", &backward);
  m.impl("fake_quantize_pact", &pact_forward);
  m.impl("_fake_quantize_pact_backward", &pact_backward);
}

}  // namespace
}  // namespace torchqat::cpu
