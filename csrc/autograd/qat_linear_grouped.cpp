// Gradient of the training layer with weights in groups. Saved: codes and masks and the scales; the operands themselves
// only where a scale is learned, whose gradient needs them. No arithmetic here.
#include "ops/qat_linear_grouped.h"

#include "autograd/qat_layer.h"
#include "torchqat/linear_grouped.h"

namespace torchqat {
namespace {

struct QatLinearGrouped : torch::autograd::Function<QatLinearGrouped> {
  static constexpr bool is_traceable = true;
  static constexpr int kArguments = 16;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& weight, const OptionalTensor& bias,
                          const Variable& input_scale, const Variable& input_zero_point, const Variable& weight_scale,
                          int64_t group_size, int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                          int64_t weight_quant_max, bool input_learned, bool weight_learned, double input_grad_scale,
                          double weight_grad_scale, c10::string_view backward) {
    at::AutoDispatchBelowADInplaceOrView below;
    const CodeRanges ranges{input_quant_min, input_quant_max, weight_quant_min, weight_quant_max};
    auto [output, codes, mask, weight_codes, weight_mask] =
        qat_linear_grouped_forward(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size, ranges,
                                   input_learned, weight_learned);
    // The mask's place holds the operand where its scale is learned: that gradient masks by itself.
    ctx->save_for_backward({codes, input_learned ? input : mask, weight_codes, weight_learned ? weight : weight_mask,
                            input_scale, input_zero_point, weight_scale});
    LayerNumbers(input, weight, bias, ranges, input_learned, weight_learned, input_grad_scale, weight_grad_scale,
                 parse_backward("qat_linear_grouped", backward), group_size)
        .save(ctx);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "qat_linear_grouped: double backward (create_graph=True) is not supported: the codes have no derivative");
    if (!grads[0].defined()) return variable_list(kArguments);
    const auto saved = ctx->get_saved_variables();
    const LayerNumbers numbers(ctx);
    const auto wanted = WantedGradients(ctx, numbers).product;
    const auto unless = [](bool is_learned, const at::Tensor& mask) {
      return is_learned ? std::nullopt : OptionalTensor(mask);
    };
    const auto product = qat_linear_grouped_backward(
        grads[0], saved[0], unless(numbers.input_learned, saved[1]), saved[2], unless(numbers.weight_learned, saved[3]),
        saved[4], saved[5], saved[6], numbers.group_size, numbers.ranges.input_min, numbers.ranges.input_max,
        numbers.input_dtype, numbers.weight_dtype, name_of(numbers.way), wanted);
    return layer_gradients(numbers, wanted, product, saved[1], saved[3], saved[4], saved[5], saved[6], kArguments);
  }
};

at::Tensor qat_linear_grouped_autograd(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                       const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                       const at::Tensor& weight_scale, int64_t group_size, int64_t input_quant_min,
                                       int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                                       bool input_learned, bool weight_learned, double input_grad_scale,
                                       double weight_grad_scale, c10::string_view backward) {
  parse_backward("qat_linear_grouped", backward);
  if (differentiates(input, weight, bias, input_scale, input_zero_point, weight_scale, input_learned, weight_learned)) {
    return QatLinearGrouped::apply(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size,
                                   input_quant_min, input_quant_max, weight_quant_min, weight_quant_max, input_learned,
                                   weight_learned, input_grad_scale, weight_grad_scale, backward);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return qat_linear_grouped(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size, input_quant_min,
                            input_quant_max, weight_quant_min, weight_quant_max, input_learned, weight_learned,
                            input_grad_scale, weight_grad_scale, backward);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("qat_linear_grouped", &qat_linear_grouped_autograd);
  m.impl("_qat_linear_grouped_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("_qat_linear_grouped_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
