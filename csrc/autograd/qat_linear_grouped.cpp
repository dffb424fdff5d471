// Gradient of the training layer with weights in groups. Saved: codes and masks and the scales; the operands themselves
// only where a scale is learned, whose gradient needs them. No arithmetic here.
#include "ops/qat_linear_grouped.h"

#include "ops/learned.h"
#include "torchqat/linear_grouped.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<at::Tensor>;

// One scale for the whole input, or one per row: as blocks of fake_quantize_learned and the scale's shape for them.
struct InputBlocks {
  c10::SymDimVector block, shape;

  InputBlocks(const at::Tensor& input, const at::Tensor& scale) {
    if (scale.sym_numel() == 1) {
      shape = c10::SymDimVector(scale.sym_sizes());
      return;
    }
    block = c10::SymDimVector(static_cast<size_t>(input.dim()), c10::SymInt(1));
    block.back() = -1;
    shape = c10::SymDimVector(input.sym_sizes());
    shape.back() = 1;
  }
};

struct QatLinearGrouped : torch::autograd::Function<QatLinearGrouped> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& weight, const OptionalTensor& bias,
                          const Variable& input_scale, const Variable& input_zero_point, const Variable& weight_scale,
                          int64_t group_size, int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                          int64_t weight_quant_max, bool input_learned, bool weight_learned, double input_grad_scale,
                          double weight_grad_scale, std::string backward) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [output, codes, mask, weight_codes, weight_mask] = qat_linear_grouped_forward(
        input, weight, bias, input_scale, input_zero_point, weight_scale, group_size,
        {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, input_learned, weight_learned);
    // The mask's place holds the operand where its scale is learned: that gradient masks by itself.
    ctx->save_for_backward({codes, input_learned ? input : mask, weight_codes, weight_learned ? weight : weight_mask,
                            input_scale, input_zero_point, weight_scale});
    ctx->saved_data["group_size"] = group_size;
    ctx->saved_data["ranges"] = std::vector<int64_t>{input_quant_min, input_quant_max, weight_quant_min, weight_quant_max};
    ctx->saved_data["learned"] = std::vector<bool>{input_learned, weight_learned};
    ctx->saved_data["grad_scales"] = std::vector<double>{input_grad_scale, weight_grad_scale};
    ctx->saved_data["dtypes"] = std::vector<int64_t>{static_cast<int64_t>(input.scalar_type()),
                                                     static_cast<int64_t>(weight.scalar_type())};
    if (bias.has_value()) ctx->saved_data["bias_dtype"] = static_cast<int64_t>(bias->scalar_type());
    ctx->saved_data["backward"] = std::move(backward);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    enum { kInput, kWeight, kBias, kInputScale, kZeroPoint, kWeightScale, kArguments = 16 };
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "qat_linear_grouped: double backward (create_graph=True) is not supported: the codes have no derivative");
    variable_list out(kArguments);
    if (!grads[0].defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const auto ranges = ctx->saved_data["ranges"].toIntVector();
    const auto learned = ctx->saved_data["learned"].toBoolList();
    const auto grad_scales = ctx->saved_data["grad_scales"].toDoubleVector();
    const auto dtypes = ctx->saved_data["dtypes"].toIntVector();
    const int64_t group_size = ctx->saved_data["group_size"].toInt();
    const bool has_bias = ctx->saved_data.count("bias_dtype") != 0;
    // Function numbers the tensor arguments; an absent bias has no number.
    const auto wants = [&](int argument) {
      if (argument == kBias && !has_bias) return false;
      return ctx->needs_input_grad(argument > kBias && !has_bias ? argument - 1 : argument);
    };
    const bool input_learned = learned[0], weight_learned = learned[1];
    const std::array<bool, 3> wanted = {
        wants(kInput) || (input_learned && (wants(kInputScale) || wants(kZeroPoint))),
        wants(kWeight) || (weight_learned && wants(kWeightScale)), wants(kBias)};
    const auto unless = [](bool is_learned, const at::Tensor& mask) {
      return is_learned ? std::nullopt : OptionalTensor(mask);
    };
    auto [grad_input, grad_weight, grad_bias] = qat_linear_grouped_backward(
        grads[0], saved[0], unless(input_learned, saved[1]), saved[2], unless(weight_learned, saved[3]), saved[4],
        saved[5], saved[6], group_size, ranges[0], ranges[1], static_cast<at::ScalarType>(dtypes[0]),
        static_cast<at::ScalarType>(dtypes[1]), ctx->saved_data["backward"].toStringView(), wanted);
    if (wanted[0]) out[kInput] = grad_input;
    if (wanted[1]) out[kWeight] = grad_weight;
    if (wanted[2]) out[kBias] = grad_bias.to(static_cast<at::ScalarType>(ctx->saved_data["bias_dtype"].toInt()));
    if (wanted[0] && input_learned) {
      const at::Tensor &input = saved[1], &scale = saved[4], &zero_point = saved[5];
      const InputBlocks blocks(input, scale);
      auto [grad, grad_scale, grad_zero] = fake_quantize_learned_backward(
          grad_input, input, scale.reshape_symint(blocks.shape), zero_point.reshape_symint(blocks.shape), blocks.block,
          ranges[0], ranges[1], grad_scales[0]);
      out[kInput] = grad;
      out[kInputScale] = grad_scale.reshape_symint(scale.sym_sizes());
      if (learns_zero_point(zero_point)) out[kZeroPoint] = grad_zero.reshape_symint(zero_point.sym_sizes());
    }
    if (wanted[1] && weight_learned) {
      const c10::SymInt block[] = {1, group_size};
      auto [grad, grad_scale, grad_zero] = fake_quantize_learned_backward(
          grad_weight, saved[3], saved[6], std::nullopt, block, ranges[2], ranges[3], grad_scales[1]);
      out[kWeight] = grad;
      out[kWeightScale] = grad_scale;
    }
    return out;
  }
};

at::Tensor qat_linear_grouped_autograd(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                       const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                       const at::Tensor& weight_scale, int64_t group_size, int64_t input_quant_min,
                                       int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                                       bool input_learned, bool weight_learned, double input_grad_scale,
                                       double weight_grad_scale, c10::string_view backward) {
  parse_grouped_backward("qat_linear_grouped", backward);
  const auto wants = [](const at::Tensor& t) { return t.requires_grad(); };
  const bool differentiates = wants(input) || wants(weight) || (bias.has_value() && wants(*bias)) ||
                              (input_learned && (wants(input_scale) || wants(input_zero_point))) ||
                              (weight_learned && wants(weight_scale));
  if (at::GradMode::is_enabled() && differentiates) {
    return QatLinearGrouped::apply(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size,
                                   input_quant_min, input_quant_max, weight_quant_min, weight_quant_max, input_learned,
                                   weight_learned, input_grad_scale, weight_grad_scale, std::string(backward));
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
