// Gradients of qat_conv_int8. No arithmetic here: forward, backward and the learned-scale rule are ops.
#include "ops/qat_conv_int8.h"

#include "torchqat/qat_conv_int8.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Everything but the tensors, as it is kept between forward and backward.
struct Settings {
  int64_t input_quant_min = 0, input_quant_max = 0, weight_quant_min = 0, weight_quant_max = 0;
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups = 1;
  bool input_learned = false, weight_learned = false;
  double input_grad_scale = 1.0, weight_grad_scale = 1.0;
  std::string backward = "auto";
  bool has_bias = false;
  std::array<at::ScalarType, 3> types{at::kFloat, at::kFloat, at::kFloat};  // of input, weight and bias
};

// All integers in one list: each entry of the context costs about a microsecond, and so does each list.
void keep(AutogradContext* ctx, const Settings& s) {
  std::vector<int64_t> numbers{s.input_quant_min, s.input_quant_max, s.weight_quant_min, s.weight_quant_max, s.groups,
                               s.input_learned, s.weight_learned, s.has_bias};
  for (const at::ScalarType type : s.types) numbers.push_back(static_cast<int64_t>(type));
  for (const auto* list : {&s.stride, &s.padding, &s.dilation}) numbers.insert(numbers.end(), list->begin(), list->end());
  ctx->saved_data["numbers"] = std::move(numbers);
  if (s.backward != "auto") ctx->saved_data["backward"] = s.backward;
  if (s.input_learned || s.weight_learned) {
    ctx->saved_data["grad_scales"] = std::vector<double>{s.input_grad_scale, s.weight_grad_scale};
  }
}

Settings kept(AutogradContext* ctx) {
  const auto& d = ctx->saved_data;
  const auto numbers = d.at("numbers").toIntList();
  Settings s;
  size_t at = 0;
  const auto next = [&] { return numbers.get(at++); };
  for (int64_t* number : {&s.input_quant_min, &s.input_quant_max, &s.weight_quant_min, &s.weight_quant_max, &s.groups}) *number = next();
  for (bool* flag : {&s.input_learned, &s.weight_learned, &s.has_bias}) *flag = next() != 0;
  for (at::ScalarType& type : s.types) type = static_cast<at::ScalarType>(next());
  const size_t dims = (numbers.size() - at) / 3;
  for (auto* list : {&s.stride, &s.padding, &s.dilation}) {
    for (size_t i = 0; i < dims; ++i) list->push_back(next());
  }
  if (const auto backward = d.find("backward"); backward != d.end()) s.backward = backward->second.toStringRef();
  if (const auto scales = d.find("grad_scales"); scales != d.end()) {
    const auto values = scales->second.toDoubleVector();
    s.input_grad_scale = values[0];
    s.weight_grad_scale = values[1];
  }
  return s;
}

// One scale for all, or one for each entry of the first dimension.
std::vector<c10::SymInt> blocks_of(const at::Tensor& scale, int64_t dims) {
  if (scale.sym_numel() == 1) return {};
  std::vector<c10::SymInt> blocks(static_cast<size_t>(dims), c10::SymInt(-1));
  blocks[0] = 1;
  return blocks;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> learned_backward(const at::Tensor& grad, const at::Tensor& input,
                                                                const at::Tensor& scale,
                                                                const std::optional<at::Tensor>& zero_point, int64_t low,
                                                                int64_t high, double grad_scale) {
  using Signature = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::SymIntArrayRef, int64_t,
      int64_t, double);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("torchqat::_fake_quantize_learned_backward", "").typed<Signature>();
  return op.call(grad, input, scale, zero_point, blocks_of(scale, input.dim()), low, high, grad_scale);
}

struct QatConvInt8 : torch::autograd::Function<QatConvInt8> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& weight,
                          const std::optional<Variable>& bias, const Variable& input_scale, const Variable& input_zero_point,
                          const Variable& weight_scale, Settings s) {
    at::AutoDispatchBelowADInplaceOrView below;
    const bool learned = s.input_learned || s.weight_learned;
    QatConvResult r = qat_conv_forward(input, weight, bias, input_scale, input_zero_point, weight_scale, s.input_quant_min,
                                       s.input_quant_max, s.weight_quant_min, s.weight_quant_max, s.stride, s.padding,
                                       s.dilation, s.groups, learned);
    // The learned rule looks at x / s, so it needs the floats themselves, and no mask.
    const at::Tensor none;
    ctx->save_for_backward({r.codes, s.input_learned ? none : r.mask, r.weight_codes, s.weight_learned ? none : r.weight_mask,
                            input_scale, input_zero_point, weight_scale, s.input_learned ? input : none,
                            s.weight_learned ? weight : none});
    s.has_bias = bias.has_value() && bias->defined();
    s.types = {input.scalar_type(), weight.scalar_type(), s.has_bias ? bias->scalar_type() : at::kFloat};
    keep(ctx, s);
    return r.output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(7);
    if (!grads[0].defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const Settings s = kept(ctx);
    const at::Tensor &codes = saved[0], &mask = saved[1], &weight_codes = saved[2], &weight_mask = saved[3];
    const at::Tensor &input_scale = saved[4], &input_zero_point = saved[5], &weight_scale = saved[6];
    const auto maybe = [](const at::Tensor& t) { return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt; };
    const bool has_bias = s.has_bias;
    // Function numbers the tensor arguments; an absent bias has no number.
    const size_t after_bias = has_bias ? 3 : 2;
    const bool scale_wanted = ctx->needs_input_grad(after_bias), zero_wanted = ctx->needs_input_grad(after_bias + 1);
    const bool weight_scale_wanted = ctx->needs_input_grad(after_bias + 2);
    const std::array<bool, 3> wanted{ctx->needs_input_grad(0) || (s.input_learned && (scale_wanted || zero_wanted)),
                                     ctx->needs_input_grad(1) || (s.weight_learned && weight_scale_wanted),
                                     has_bias && ctx->needs_input_grad(2)};
    auto [grad_input, grad_weight, grad_bias] =
        qat_conv_backward(grads[0], codes, maybe(mask), weight_codes, maybe(weight_mask), input_scale, input_zero_point,
                          weight_scale, s.input_quant_min, s.input_quant_max, s.stride, s.padding, s.dilation, s.groups, wanted,
                          s.backward);
    if (wanted[0] && s.input_learned) {
      auto [grad, grad_scale, grad_zero] =
          learned_backward(grad_input, saved[7].to(at::kFloat), input_scale, input_zero_point, s.input_quant_min,
                           s.input_quant_max, s.input_grad_scale);
      grad_input = grad;
      if (scale_wanted) result[3] = grad_scale.to(input_scale.scalar_type());
      if (zero_wanted && input_zero_point.is_floating_point()) result[4] = grad_zero.to(input_zero_point.scalar_type());
    }
    if (wanted[1] && s.weight_learned) {
      auto [grad, grad_scale, grad_zero] =
          learned_backward(grad_weight, saved[8].to(at::kFloat), weight_scale, std::nullopt, s.weight_quant_min,
                           s.weight_quant_max, s.weight_grad_scale);
      grad_weight = grad;
      if (weight_scale_wanted) result[5] = grad_scale.to(weight_scale.scalar_type());
    }
    if (ctx->needs_input_grad(0)) result[0] = grad_input.to(s.types[0]);
    if (ctx->needs_input_grad(1)) result[1] = grad_weight.to(s.types[1]);
    if (wanted[2]) result[2] = grad_bias.to(s.types[2]);
    return result;
  }
};

at::Tensor qat_conv_int8_autograd(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                  const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                  const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                                  int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride,
                                  at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool input_learned,
                                  bool weight_learned, double input_grad_scale, double weight_grad_scale,
                                  std::string_view backward) {
  check_backward_mode("qat_conv_int8", backward);
  const auto differentiable = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  const bool any = differentiable(input) || differentiable(weight) || (bias.has_value() && differentiable(*bias)) ||
                   (input_learned && (differentiable(input_scale) || differentiable(input_zero_point))) ||
                   (weight_learned && differentiable(weight_scale));
  if (at::GradMode::is_enabled() && any) {
    return QatConvInt8::apply(input, weight, bias, input_learned ? input_scale : input_scale.detach(),
                              input_learned ? input_zero_point : input_zero_point.detach(),
                              weight_learned ? weight_scale : weight_scale.detach(),
                              Settings{input_quant_min, input_quant_max, weight_quant_min, weight_quant_max, stride.vec(),
                                       padding.vec(), dilation.vec(), groups, input_learned, weight_learned, input_grad_scale,
                                       weight_grad_scale, std::string(backward)});
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return qat_conv_int8(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min, input_quant_max,
                       weight_quant_min, weight_quant_max, stride, padding, dilation, groups, input_learned, weight_learned,
                       input_grad_scale, weight_grad_scale, backward);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("qat_conv_int8", &qat_conv_int8_autograd);
  m.impl("_qat_conv_int8_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("_qat_conv_int8_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
