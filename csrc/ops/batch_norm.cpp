// Schemas, checks and C++ entry points of batch_norm_relu and batch_norm_update_.
#include "ops/batch_norm.h"

#include "ops/call.h"
#include "torchqat/batch_norm.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "batch_norm_relu(Tensor input, Tensor? weight, Tensor? bias, float eps, bool relu=True, float? ceiling=None) "
      "-> (Tensor output, Tensor mean, Tensor var)");
  m.def(
      "_batch_norm_relu_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
      "float eps, bool relu, bool[3] output_mask, float? ceiling=None) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  m.def(
      "batch_norm_update_(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, SymInt count, float momentum) "
      "-> Tensor unbiased_var");
}

void check_batch_norm_relu(const at::Tensor& input, const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                           double eps, std::optional<double> ceiling) {
  const char* op = "batch_norm_relu";
  const auto type = input.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kBFloat16 || type == at::kHalf, op,
                   ": input must be float32, bfloat16 or float16, got ", type);
  TORCH_CHECK_VALUE(input.dim() >= 2, op, ": input must be [N, C, *spatial], got shape ", input.sym_sizes());
  TORCH_CHECK_VALUE(eps > 0, op, ": eps must be > 0, got ", eps);
  TORCH_CHECK_VALUE(!ceiling.has_value() || *ceiling > 0, op, ": ceiling must be > 0, got ", ceiling.value_or(0.0));
  const auto check = [&](const char* name, const std::optional<at::Tensor>& t) {
    if (!t.has_value() || !t->defined()) return;
    TORCH_CHECK_TYPE(at::isFloatingType(t->scalar_type()), op, ": ", name, " must be floating, got ", t->scalar_type());
    TORCH_CHECK_VALUE(t->dim() == 1 && t->sym_size(0) == input.sym_size(1), op, ": ", name, " must have shape [", input.sym_size(1),
                      "], got ", t->sym_sizes());
    TORCH_CHECK_VALUE(t->device() == input.device(), op, ": ", name, " must be on the device of input ", input.device(), ", got ",
                      t->device());
  };
  check("weight", weight);
  check("bias", bias);
  TORCH_CHECK_VALUE(input.sym_numel() != input.sym_size(1), op, ": input must have more than one element in each channel, got shape ",
                    input.sym_sizes());
}

void check_batch_norm_update(const at::Tensor& running_mean, const at::Tensor& running_var, const at::Tensor& mean,
                             const at::Tensor& var, const c10::SymInt& count, double momentum) {
  const char* op = "batch_norm_update_";
  const auto check = [&](const char* name, const at::Tensor& t) {
    TORCH_CHECK_TYPE(at::isFloatingType(t.scalar_type()), op, ": ", name, " must be floating, got ", t.scalar_type());
    TORCH_CHECK_VALUE(t.dim() == 1 && t.sym_size(0) == mean.sym_size(0), op, ": ", name, " must have the shape of mean ", mean.sym_sizes(),
                      ", got ", t.sym_sizes());
    TORCH_CHECK_VALUE(t.device() == mean.device(), op, ": ", name, " must be on the device of mean ", mean.device(), ", got ", t.device());
  };
  TORCH_CHECK_VALUE(mean.dim() == 1, op, ": mean must be one-dimensional, got shape ", mean.sym_sizes());
  check("running_mean", running_mean);
  check("running_var", running_var);
  check("mean", mean);
  check("var", var);
  TORCH_CHECK_VALUE(count != 1, op, ": count must not be 1");
  TORCH_CHECK_VALUE(momentum >= 0 && momentum <= 1, op, ": momentum must be in [0, 1], got ", momentum);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_relu(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                                               const std::optional<at::Tensor>& bias, double eps, bool relu,
                                                               std::optional<double> ceiling) {
  static const auto op = find_op<decltype(batch_norm_relu)>("torchqat::batch_norm_relu");
  return op.call(input, weight, bias, eps, relu, ceiling);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_relu_backward(
    const at::Tensor& grad_output, const at::Tensor& input, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var, double eps, bool relu,
    std::array<bool, 3> output_mask, std::optional<double> ceiling) {
  static const auto op = find_op<decltype(batch_norm_relu_backward)>("torchqat::_batch_norm_relu_backward");
  return op.call(grad_output, input, weight, bias, mean, var, eps, relu, output_mask, ceiling);
}

at::Tensor batch_norm_update_symint(at::Tensor& running_mean, at::Tensor& running_var, const at::Tensor& mean, const at::Tensor& var,
                                    c10::SymInt count, double momentum) {
  static const auto op = find_op<decltype(batch_norm_update_symint)>("torchqat::batch_norm_update_");
  return op.call(running_mean, running_var, mean, var, std::move(count), momentum);
}

at::Tensor batch_norm_update_(at::Tensor& running_mean, at::Tensor& running_var, const at::Tensor& mean, const at::Tensor& var,
                              int64_t count, double momentum) {
  return batch_norm_update_symint(running_mean, running_var, mean, var, c10::SymInt(count), momentum);
}

}  // namespace torchqat
