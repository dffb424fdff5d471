// CPU kernels of fake_quantize_learned and fake_quantize_pact: tensors to pointers, threads, the fixed order of the scale's sums.
#include "ops/torch_headers.h"

#include <cmath>

#include "cpu/block_view.h"
#include "cpu/kernels/learned.h"
#include "numerics/learned.h"
#include "ops/learned.h"
#include "ops/qparams.h"

namespace torchqat::cpu {
namespace {

const LearnedKernels& learned_kernels() { return *select(&learned_scalar, &learned_avx2, &learned_avx512); }

// The values that the forward uses: scale clamped from below, zero point on the grid.
template <typename S>
QParamsView used_qparams(const char* op, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point, int64_t quant_min,
                         int64_t quant_max) {
  const auto compute = c10::CppTypeToScalarType<S>::value;
  QParamsView view;
  view.scale = at::empty({scale.numel()}, scale.options().dtype(compute));
  const at::Tensor given = scale.to(compute).contiguous();
  const S* from = given.const_data_ptr<S>();
  S* to = view.scale.mutable_data_ptr<S>();
  for (int64_t i = 0; i < given.numel(); ++i) {
    TORCH_CHECK_VALUE(std::isfinite(from[i]), op, ": scale must be finite, got ", from[i], " at entry ", i);
    to[i] = numerics::learned_scale(from[i]);
  }
  view.scale_data = to;
  if (!zero_point.has_value()) return view;
  const at::Tensor points = zero_point->to(at::kDouble).contiguous();
  view.zero_point = at::empty({points.numel()}, points.options().dtype(at::kInt));
  const double* z = points.const_data_ptr<double>();
  int32_t* to_z = view.zero_point.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < points.numel(); ++i) {
    TORCH_CHECK_VALUE(std::isfinite(z[i]), op, ": zero_point must be finite, got ", z[i], " at entry ", i);
    to_z[i] = static_cast<int32_t>(
        numerics::learned_zero_point(z[i], static_cast<double>(quant_min), static_cast<double>(quant_max)));
  }
  view.zero_point_data = to_z;
  return view;
}

QParamsView used_qparams(const char* op, const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         int64_t quant_min, int64_t quant_max) {
  return compute_type(x) == at::kDouble ? used_qparams<double>(op, scale, zero_point, quant_min, quant_max)
                                        : used_qparams<float>(op, scale, zero_point, quant_min, quant_max);
}

at::Tensor run_forward(const char* op, const at::Tensor& input, const at::Tensor& scale,
                       const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size, int64_t quant_min,
                       int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned(op, input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max,
                              grad_scale);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x);
  const auto q = used_qparams(op, x, scale, zero_point, quant_min, quant_max);
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), nullptr, q.scale_data, q.zero_point_data,
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

// Sums per scale entry into ds and dz (null where not wanted), in an order that the number of threads does not change.
void sum_blocks(LearnedArgs args, void (*kernel)(const LearnedArgs&, int64_t, int64_t), double* ds, double* dz) {
  const Blocks& blocks = *args.blocks;
  const int64_t steps = (blocks.size[0] + blocks.block[0] - 1) / blocks.block[0];
  const int64_t step = blocks.numel / blocks.size[0] * blocks.block[0];
  args.ds = ds;
  args.dz = dz;
  // Entries of their own for every outer step: whole steps go to threads, each entry is summed by one of them.
  if (steps >= 64 && blocks.stride[0] != 0) {
    at::parallel_for(0, steps, std::max<int64_t>(1, grain / step), [&](int64_t first, int64_t last) {
      kernel(args, first * step, std::min(last * step, blocks.numel));
    });
    return;
  }
  // Otherwise a number of pieces that depends on the tensor alone, each with sums of its own, added in order.
  const int64_t tiles = (blocks.numel + tile - 1) / tile;
  const int64_t pieces = std::clamp<int64_t>(std::min<int64_t>(64, (int64_t{1} << 22) / blocks.scales), 1, tiles);
  const int64_t piece = (tiles + pieces - 1) / pieces * tile;
  std::vector<double> sums(2 * pieces * blocks.scales);
  at::parallel_for(0, pieces, std::max<int64_t>(1, grain / piece), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      LearnedArgs own = args;
      own.ds = sums.data() + 2 * p * blocks.scales;
      own.dz = dz == nullptr ? nullptr : own.ds + blocks.scales;
      kernel(own, std::min(p * piece, blocks.numel), std::min((p + 1) * piece, blocks.numel));
    }
  });
  for (int64_t p = 0; p < pieces; ++p) {
    const double* own = sums.data() + 2 * p * blocks.scales;
    for (int64_t i = 0; i < blocks.scales; ++i) ds[i] += own[i];
    if (dz == nullptr) continue;
    for (int64_t i = 0; i < blocks.scales; ++i) dz[i] += own[blocks.scales + i];
  }
}

// kernels: the rule's, by Float.
std::tuple<at::Tensor, at::Tensor, at::Tensor> run_backward(void (*const kernels[4])(const LearnedArgs&, int64_t, int64_t),
                                                            const at::Tensor& grad, const at::Tensor& input,
                                                            const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                                            at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                                            double grad_scale) {
  const at::Tensor x = dense(input);
  at::Tensor dx = at::empty_like(x);
  const at::Tensor dy = grad.strides() == x.strides() ? grad : at::empty_like(x).copy_(grad);
  const auto q = used_qparams("fake_quantize_learned", x, scale, zero_point, quant_min, quant_max);
  const bool with_zero_point = learns_zero_point(zero_point);
  const auto wide = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor ds = at::zeros(scale.sizes(), wide), dz = at::zeros(with_zero_point ? zero_point->sizes() : at::IntArrayRef{0}, wide);
  const Blocks blocks = blocks_of(x, block_size);
  if (blocks.numel > 0) {
    const LearnedArgs args{&blocks, x.const_data_ptr(), dy.const_data_ptr(), dx.mutable_data_ptr(), q.scale_data,
                           q.zero_point_data, static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), nullptr, nullptr,
                           streams(dx)};
    sum_blocks(args, kernels[static_cast<int>(float_type(x.scalar_type()))], ds.mutable_data_ptr<double>(),
               with_zero_point ? dz.mutable_data_ptr<double>() : nullptr);
  }
  const auto finish = [&](const at::Tensor& sum, at::ScalarType type) {
    double* s = sum.mutable_data_ptr<double>();
    for (int64_t i = 0; i < sum.numel(); ++i) s[i] *= grad_scale;
    return sum.to(type);
  };
  return {dx, finish(ds, scale.scalar_type()), finish(dz, with_zero_point ? zero_point->scalar_type() : scale.scalar_type())};
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
