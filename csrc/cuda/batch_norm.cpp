// BatchNorm with a ReLU on CUDA. The batch's mean and variance are ATen's: sums of floats, not the CPU's bits.
#include "ops/torch_headers.h"

#include "cuda/kernels/batch_norm.h"
#include "cuda/device.h"
#include "ops/batch_norm.h"

#include <limits>

namespace torchqat::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

struct Call {
  at::Tensor x, scale, shift;
  BatchNorm args;

  Call(const at::Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, const at::Tensor& mean,
       const at::Tensor& var, double eps, bool relu, std::optional<double> ceiling)
      : x(input) {
    const auto parameter = [&](const OptionalTensor& t, double fill) {
      return t.has_value() && t->defined() ? in_type(*t, at::kFloat)
                                           : at::full({x.size(1)}, fill, x.options().memory_format(std::nullopt));
    };
    // In double and rounded once, as on the CPU.
    scale = (parameter(weight, 1.0).to(at::kDouble) / (var.to(at::kDouble) + eps).sqrt()).to(at::kFloat);
    shift = parameter(bias, 0.0);
    args.samples = x.size(0);
    args.channels = x.size(1);
    args.pixels = x.numel() == 0 ? 0 : x.numel() / (x.size(0) * x.size(1));
    args.channels_last = x.suggest_memory_format() != at::MemoryFormat::Contiguous;
    args.relu = relu;
    args.ceiling = static_cast<float>(ceiling.value_or(std::numeric_limits<double>::infinity()));
    args.x = x.const_data_ptr<float>();
    args.mean = mean.const_data_ptr<float>();
    args.scale = scale.const_data_ptr<float>();
    args.shift = shift.const_data_ptr<float>();
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_relu_op(const at::Tensor& input, const OptionalTensor& weight,
                                                                  const OptionalTensor& bias, double eps, bool relu,
                                                                  std::optional<double> ceiling) {
  check_batch_norm_relu(input, weight, bias, eps, ceiling);
  const OnDevice device(input);
  const auto format = input.suggest_memory_format();
  const at::Tensor x = input.to(at::kFloat).contiguous(format);
  const auto floats = x.options().memory_format(std::nullopt);
  at::Tensor y = at::empty(x.sizes(), floats, format);
  if (x.numel() == 0) return {y.to(input.scalar_type()), at::zeros({x.size(1)}, floats), at::zeros({x.size(1)}, floats)};
  std::vector<int64_t> all_but_channels{0};
  for (int64_t d = 2; d < x.dim(); ++d) all_but_channels.push_back(d);
  auto [var, mean] = at::var_mean(x, all_but_channels, /*unbiased=*/false);
  mean = mean.contiguous();
  var = var.contiguous();
  Call call(x, weight, bias, mean, var, eps, relu, ceiling);
  call.args.out = y.mutable_data_ptr<float>();
  batch_norm_values(call.args, device.stream());
  return {y.to(input.scalar_type()), mean, var};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_op(const at::Tensor& grad_output, const at::Tensor& input,
                                                           const OptionalTensor& weight, const OptionalTensor& bias,
                                                           const at::Tensor& mean, const at::Tensor& var, double eps, bool relu,
                                                           std::array<bool, 3> wanted, std::optional<double> ceiling) {
  const OnDevice device(input);
  const auto format = input.suggest_memory_format();
  const at::Tensor x = input.to(at::kFloat).contiguous(format), grad = grad_output.to(at::kFloat).contiguous(format);
  const at::Tensor own_mean = in_type(mean, at::kFloat);
  const auto floats = x.options().memory_format(std::nullopt);
  Call call(x, weight, bias, own_mean, var, eps, relu, ceiling);
  call.args.grad = grad.const_data_ptr<float>();
  const int64_t chunks = batch_norm_chunks(call.args);
  const at::Tensor parts = at::empty({2, chunks, call.args.channels}, floats.dtype(at::kDouble));
  const at::Tensor sums = at::empty({2, call.args.channels}, floats.dtype(at::kDouble));
  batch_norm_sums(call.args, chunks, parts.mutable_data_ptr<double>(), sums.mutable_data_ptr<double>(), device.stream());
  const at::Tensor variance = var.to(at::kDouble) + eps;
  at::Tensor dx = at::empty({0}, floats);
  if (wanted[0]) {
    const auto count = static_cast<double>(std::max<int64_t>(1, call.args.samples * call.args.pixels));
    const at::Tensor average = (sums[0] / count).to(at::kFloat), slope = (sums[1] / count / variance).to(at::kFloat);
    dx = at::empty(x.sizes(), floats, format);
    call.args.grad_mean = average.const_data_ptr<float>();
    call.args.slope = slope.const_data_ptr<float>();
    call.args.out = dx.mutable_data_ptr<float>();
    batch_norm_gradient(call.args, device.stream());
    dx = dx.to(input.scalar_type());
  }
  const at::Tensor none = at::empty({0}, floats);
  return {dx, wanted[1] ? (sums[1] / variance.sqrt()).to(at::kFloat) : none, wanted[2] ? sums[0].to(at::kFloat) : none};
}

at::Tensor update_op(at::Tensor& running_mean, at::Tensor& running_var, const at::Tensor& mean, const at::Tensor& var, int64_t count,
                     double momentum) {
  check_batch_norm_update(running_mean, running_var, mean, var, count, momentum);
  const OnDevice device(mean);
  const at::Tensor unbiased = var.to(at::kFloat) * (count == 0 ? 1.0 : static_cast<double>(count) / static_cast<double>(count - 1));
  if (count == 0) return unbiased;
  // numerics::running_average, every operation rounded in double.
  const auto update = [&](at::Tensor& running, const at::Tensor& now) {
    running.copy_((running.to(at::kFloat).to(at::kDouble).mul_(1.0 - momentum))
                      .add_(now.to(at::kFloat).to(at::kDouble).mul_(momentum))
                      .to(at::kFloat));
  };
  update(running_mean, mean);
  update(running_var, unbiased);
  return unbiased;
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("batch_norm_relu", &batch_norm_relu_op);
  m.impl("_batch_norm_relu_backward", &backward_op);
  m.impl("batch_norm_update_", &update_op);
}

}  // namespace
}  // namespace torchqat::cuda
