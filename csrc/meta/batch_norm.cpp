// Shapes of batch_norm_relu.
#include "ops/batch_norm.h"

namespace torchqat {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_relu_meta(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                                                    const std::optional<at::Tensor>& bias, double eps, bool,
                                                                    std::optional<double> ceiling) {
  check_batch_norm_relu(input, weight, bias, eps, ceiling);
  const auto floats = input.options().dtype(at::kFloat);
  return {at::empty_symint(input.sym_sizes(), input.options(), input.suggest_memory_format()),
          at::empty_symint({input.sym_size(1)}, floats), at::empty_symint({input.sym_size(1)}, floats)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_meta(const at::Tensor&, const at::Tensor& input,
                                                             const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                                                             const at::Tensor&, const at::Tensor&, double, bool,
                                                             std::array<bool, 3> wanted, std::optional<double>) {
  const auto floats = input.options().dtype(at::kFloat);
  const auto sums = [&](bool is_wanted) {
    return is_wanted ? at::empty_symint({input.sym_size(1)}, floats) : at::empty({0}, floats);
  };
  return {wanted[0] ? at::empty_symint(input.sym_sizes(), input.options(), input.suggest_memory_format()) : at::empty({0}, floats),
          sums(wanted[1]), sums(wanted[2])};
}

at::Tensor update_meta(at::Tensor& running_mean, at::Tensor& running_var, const at::Tensor& mean, const at::Tensor& var,
                        c10::SymInt count, double momentum) {
  check_batch_norm_update(running_mean, running_var, mean, var, count, momentum);
  return at::empty_symint(var.sym_sizes(), var.options().dtype(at::kFloat));
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("batch_norm_relu", &batch_norm_relu_meta);
  m.impl("_batch_norm_relu_backward", &backward_meta);
  m.impl("batch_norm_update_", &update_meta);
}

}  // namespace
}  // namespace torchqat
