// Gradient of the int8 training layer. Saved: codes and masks, the packed weight and the scales; the operands themselves
// only where a scale is learned, whose gradient needs them. No arithmetic here.
#include "autograd/no_gradient.h"
#include "autograd/qat_layer.h"
#include "autograd/qat_linear_int8.h"
#include "cpu/qat_linear_int8.h"

namespace torchqat {
namespace {

// Of either Function below: they save alike.
variable_list gradients(AutogradContext* ctx, const variable_list& grads, int arguments) {
  TORCH_CHECK(!at::GradMode::is_enabled(),
              "qat_linear_int8: double backward (create_graph=True) is not supported: the codes have no derivative");
  if (!grads[0].defined()) return variable_list(static_cast<size_t>(arguments));
  const auto saved = ctx->get_saved_variables();
  const LayerNumbers numbers(ctx);
  const auto wanted = WantedGradients(ctx, numbers).product;
  const auto unless = [](bool is_learned, const at::Tensor& mask) {
    return is_learned || !mask.defined() ? std::nullopt : OptionalTensor(mask);
  };
  const auto product = [&] {
    // Nothing is recorded here; the op's own kernel for autograd would take the arguments apart only to find that out.
    at::AutoDispatchBelowADInplaceOrView below;
    return qat_linear_int8_backward(
        grads[0], saved[0], unless(numbers.input_learned, saved[1]), saved[2], unless(numbers.weight_learned, saved[3]),
        saved[4], saved[5], saved[6], ctx->saved_data["k"].toSymInt(), numbers.ranges.input_min, numbers.ranges.input_max,
        numbers.input_dtype, numbers.weight_dtype, name_of(numbers.way), wanted);
  }();
  return layer_gradients(numbers, wanted, product, saved[1], saved[3], saved[4], saved[5], saved[6], arguments);
}

struct QatLinearInt8 : torch::autograd::Function<QatLinearInt8> {
  static constexpr bool is_traceable = true;
  static constexpr int kArguments = 17;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& weight, const OptionalTensor& bias,
                          const Variable& input_scale, const Variable& input_zero_point, const OptionalTensor& weight_scale,
                          int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                          int64_t weight_quant_max, bool input_learned, bool weight_learned, double input_grad_scale,
                          double weight_grad_scale, c10::string_view backward, const OptionalTensor& packed_weight,
                          const OptionalTensor& weight_mask) {
    at::AutoDispatchBelowADInplaceOrView below;
    const CodeRanges ranges{input_quant_min, input_quant_max, weight_quant_min, weight_quant_max};
    check_qat_linear_int8("qat_linear_int8", input, weight, bias, input_scale, input_zero_point, weight_scale, ranges,
                          packed_weight);
    at::Tensor packed, mask_of_weight, scale;
    if (packed_weight.has_value()) {
      packed = *packed_weight;
      mask_of_weight = weight_mask.value_or(at::Tensor());
      scale = *weight_scale;
    } else {
      std::tie(packed, mask_of_weight, scale) =
          qat_linear_int8_pack(weight, weight_scale, weight_quant_min, weight_quant_max, weight_learned);
    }
    auto [output, codes, mask] =
        qat_linear_int8_forward(input, packed, scale, weight.sym_size(0), bias, input_scale, input_zero_point,
                                input_quant_min, input_quant_max, input_learned);
    // The mask's place holds the operand where its scale is learned: that gradient masks by itself.
    ctx->save_for_backward({std::move(codes), input_learned ? input : mask, std::move(packed),
                            weight_learned ? weight : mask_of_weight, input_scale, input_zero_point,
                            weight_learned ? *weight_scale : scale});
    LayerNumbers(input, weight, bias, ranges, input_learned, weight_learned, input_grad_scale, weight_grad_scale,
                 parse_backward("qat_linear_int8", backward))
        .save(ctx);
    ctx->saved_data["k"] = weight.sym_size(1);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) { return gradients(ctx, grads, kArguments); }
};

// With the statistics, on the CPU.
struct QatLinearInt8Observed : torch::autograd::Function<QatLinearInt8Observed> {
  static constexpr bool is_traceable = true;
  static constexpr int kArguments = 5;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& weight, const OptionalTensor& bias,
                          const cpu::ObservedArguments* arguments, Backward way) {
    at::AutoDispatchBelowADInplaceOrView below;
    cpu::ObservedForward f = cpu::qat_linear_int8_observed_forward(*arguments, /*with_masks=*/true);
    ctx->save_for_backward({std::move(f.codes), std::move(f.mask), std::move(f.packed_weight), std::move(f.weight_mask),
                            std::move(f.input_scale), std::move(f.input_zero_point), std::move(f.weight_scale)});
    LayerNumbers(input, weight, bias, arguments->ranges, false, false, 1.0, 1.0, way).save(ctx);
    ctx->saved_data["k"] = weight.size(1);
    return std::move(f.output);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) { return gradients(ctx, grads, kArguments); }
};

at::Tensor qat_linear_int8_autograd(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                    const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                    const OptionalTensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                                    int64_t weight_quant_min, int64_t weight_quant_max, bool input_learned,
                                    bool weight_learned, double input_grad_scale, double weight_grad_scale,
                                    c10::string_view backward, const OptionalTensor& packed_weight,
                                    const OptionalTensor& weight_mask) {
  parse_backward("qat_linear_int8", backward);
  TORCH_CHECK_VALUE(!weight_learned || weight_scale.has_value(),
                    "qat_linear_int8: weight_scale must be given where weight_learned is true");
  if (differentiates(input, weight, bias, input_scale, input_zero_point, weight_scale, input_learned, weight_learned)) {
    return QatLinearInt8::apply(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min,
                                input_quant_max, weight_quant_min, weight_quant_max, input_learned, weight_learned,
                                input_grad_scale, weight_grad_scale, backward, packed_weight, weight_mask);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return qat_linear_int8(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min,
                         input_quant_max, weight_quant_min, weight_quant_max, input_learned, weight_learned,
                         input_grad_scale, weight_grad_scale, backward, packed_weight, weight_mask);
}

}  // namespace

at::Tensor qat_linear_int8_observed_on_cpu(const cpu::ObservedArguments& a, Backward way) {
  const auto wants = [](const at::Tensor& t) { return t.requires_grad(); };
  if (at::GradMode::is_enabled() && (wants(a.input) || wants(a.weight) || (a.bias.has_value() && wants(*a.bias)))) {
    return QatLinearInt8Observed::apply(a.input, a.weight, a.bias, &a, way);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return cpu::qat_linear_int8_observed_forward(a, /*with_masks=*/false).output;
}

namespace {

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("qat_linear_int8", &qat_linear_int8_autograd);
  m.impl("qat_linear_int8_pack", no_gradient());
  m.impl("_qat_linear_int8_multiply", torch::autograd::autogradNotImplementedFallback());
  m.impl("_qat_linear_int8_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
