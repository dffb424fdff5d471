// BatchNorm with a ReLU on the CPU: tensors to blocks, blocks to threads.
#include "ops/batch_norm.h"

#include <limits>

#include "cpu/isa.h"
#include "cpu/kernels/batch_norm.h"

namespace torchqat {
namespace {

namespace bn = cpu::batch_norm;

bn::Kernels current_kernels() { return *cpu::select(&bn::kernels_scalar, &bn::kernels_avx2, &bn::kernels_avx512); }

bn::Shape shape_of(const at::Tensor& x, at::MemoryFormat format) {
  bn::Shape s;
  s.samples = x.size(0);
  s.channels = x.size(1);
  s.pixels = s.samples * s.channels == 0 ? 0 : x.numel() / (s.samples * s.channels);
  s.channels_last = format != at::MemoryFormat::Contiguous;
  return s;
}

template <typename Body>
void for_blocks(const bn::Shape& s, Body body) {
  const int64_t work = std::max<int64_t>(1, s.block_size() * s.channels);
  at::parallel_for(0, s.blocks(), std::max<int64_t>(1, 32768 / work), body);
}

at::Tensor as_float(const std::optional<at::Tensor>& t, const at::Tensor& like, double fill) {
  if (t.has_value() && t->defined()) return t->to(at::kFloat).contiguous();
  return at::full({like.size(1)}, fill, like.options().dtype(at::kFloat));
}

// gamma / sqrt(var + eps), in double and rounded once.
at::Tensor scale_of(const at::Tensor& gamma, const at::Tensor& var, double eps) {
  return (gamma.to(at::kDouble) / (var.to(at::kDouble) + eps).sqrt()).to(at::kFloat);
}

bn::Parameters parameters(const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift, bool relu,
                          std::optional<double> ceiling) {
  const float most = static_cast<float>(ceiling.value_or(std::numeric_limits<double>::infinity()));
  return {mean.const_data_ptr<float>(), scale.const_data_ptr<float>(), shift.const_data_ptr<float>(), relu, most};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_relu_cpu(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                                                   const std::optional<at::Tensor>& bias, double eps, bool relu,
                                                                   std::optional<double> ceiling) {
  check_batch_norm_relu(input, weight, bias, eps, ceiling);
  const auto format = input.suggest_memory_format();
  const at::Tensor x = input.to(at::kFloat).contiguous(format);
  const auto floats = x.options().memory_format(std::nullopt);
  const at::Tensor y = at::empty(x.sizes(), floats, format);
  const at::Tensor mean = at::zeros({x.size(1)}, floats), var = at::zeros({x.size(1)}, floats);
  if (x.numel() == 0) return {y.to(input.scalar_type()), mean, var};
  const bn::Shape s = shape_of(x, format);
  const bn::Kernels kernels = current_kernels();
  const float* from = x.const_data_ptr<float>();
  const at::Tensor parts = at::empty({3, s.blocks(), s.channels}, floats);
  float* part = parts.mutable_data_ptr<float>();
  const int64_t size = s.blocks() * s.channels;
  const bn::Moments moments{part, part + size, part + 2 * size};
  for_blocks(s, [&](int64_t begin, int64_t end) { kernels.moments(s, from, begin, end, moments); });
  bn::merge_moments(s, moments, mean.mutable_data_ptr<float>(), var.mutable_data_ptr<float>());
  const at::Tensor scale = scale_of(as_float(weight, x, 1.0), var, eps), shift = as_float(bias, x, 0.0);
  const bn::Parameters p = parameters(mean, scale, shift, relu, ceiling);
  float* to = y.mutable_data_ptr<float>();
  for_blocks(s, [&](int64_t begin, int64_t end) { kernels.normalize(s, from, p, begin, end, to); });
  return {y.to(input.scalar_type()), mean, var};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cpu(const at::Tensor& grad_output, const at::Tensor& input,
                                                            const std::optional<at::Tensor>& weight,
                                                            const std::optional<at::Tensor>& bias, const at::Tensor& mean,
                                                            const at::Tensor& var, double eps, bool relu,
                                                            std::array<bool, 3> wanted, std::optional<double> ceiling) {
  const auto format = input.suggest_memory_format();
  const at::Tensor x = input.to(at::kFloat).contiguous(format), grad = grad_output.to(at::kFloat).contiguous(format);
  const auto floats = x.options().memory_format(std::nullopt);
  const at::Tensor none = at::empty({0}, floats);
  const bn::Shape s = shape_of(x, format);
  const bn::Kernels kernels = current_kernels();
  const at::Tensor scale = scale_of(as_float(weight, x, 1.0), var, eps), shift = as_float(bias, x, 0.0);
  const bn::Parameters p = parameters(mean, scale, shift, relu, ceiling);
  const float *dy = grad.const_data_ptr<float>(), *from = x.const_data_ptr<float>();
  const at::Tensor parts = at::empty({2, s.blocks(), s.channels}, floats);
  float* part = parts.mutable_data_ptr<float>();
  const int64_t size = s.blocks() * s.channels;
  for_blocks(s, [&](int64_t begin, int64_t end) { kernels.gradient_sums(s, dy, from, p, begin, end, part, part + size); });
  const at::Tensor sums = at::zeros({2, s.channels}, floats.dtype(at::kDouble));
  bn::merge_sums(s, part, sums.mutable_data_ptr<double>());
  bn::merge_sums(s, part + size, sums.mutable_data_ptr<double>() + s.channels);
  const at::Tensor variance = var.to(at::kDouble) + eps;
  at::Tensor dx = none;
  if (wanted[0]) {
    dx = at::empty(x.sizes(), floats, format);
    const auto count = static_cast<double>(std::max<int64_t>(1, s.count()));
    const at::Tensor average = (sums[0] / count).to(at::kFloat), slope = (sums[1] / count / variance).to(at::kFloat);
    const float *mean_grad = average.const_data_ptr<float>(), *steep = slope.const_data_ptr<float>();
    float* to = dx.mutable_data_ptr<float>();
    for_blocks(s, [&](int64_t begin, int64_t end) { kernels.gradient(s, dy, from, p, mean_grad, steep, begin, end, to); });
    dx = dx.to(input.scalar_type());
  }
  return {dx, wanted[1] ? (sums[1] / variance.sqrt()).to(at::kFloat) : none, wanted[2] ? sums[0].to(at::kFloat) : none};
}

at::Tensor update_cpu(at::Tensor& running_mean, at::Tensor& running_var, const at::Tensor& mean, const at::Tensor& var, int64_t count,
                       double momentum) {
  check_batch_norm_update(running_mean, running_var, mean, var, count, momentum);
  const at::Tensor unbiased = var.to(at::kFloat) * (count == 0 ? 1.0 : static_cast<double>(count) / static_cast<double>(count - 1));
  if (count == 0) return unbiased;
  const auto update = [&](at::Tensor& running, const at::Tensor& now) {
    at::Tensor wide = running.to(at::kFloat).contiguous();
    const at::Tensor values = now.to(at::kFloat).contiguous();
    bn::update_average(wide.mutable_data_ptr<float>(), values.const_data_ptr<float>(), wide.numel(), momentum);
    if (!wide.is_same(running)) running.copy_(wide);
  };
  update(running_mean, mean);
  update(running_var, unbiased);
  return unbiased;
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("batch_norm_relu", &batch_norm_relu_cpu);
  m.impl("_batch_norm_relu_backward", &backward_cpu);
  m.impl("batch_norm_update_", &update_cpu);
}

}  // namespace
}  // namespace torchqat
