// Gradient of the int8 training layer. Saved: codes and masks, the packed weight and the scales; the operands themselves
// only where a scale is learned, whose gradient needs them. No arithmetic here.
#include "ops/qat_linear_int8.h"

#include "ops/learned.h"
#include "torchqat/linear_int8.h"

namespace torchqat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The operand's blocks of one scale: all of it, or what runs along the last dimension.
struct ScaleBlocks {
  c10::SymDimVector block, shape;

  ScaleBlocks(const at::Tensor& operand, const at::Tensor& scale) {
    if (scale.sym_numel() == 1) {
      shape = c10::SymDimVector(scale.sym_sizes());
      return;
    }
    block = c10::SymDimVector(operand.dim(), 1);
    block.back() = -1;
    shape = c10::SymDimVector(operand.sym_sizes());
    shape.back() = 1;
  }
};

struct LearnedGradients {
  at::Tensor operand, scale, zero_point;
};

LearnedGradients learned_gradients(const at::Tensor& grad, const at::Tensor& operand, const at::Tensor& scale,
                                   const std::optional<at::Tensor>& zero_point, int64_t quant_min, int64_t quant_max,
                                   double grad_scale) {
  const ScaleBlocks blocks(operand, scale);
  std::optional<at::Tensor> zeros;
  if (zero_point.has_value()) zeros = zero_point->reshape_symint(blocks.shape);
  auto [grad_operand, grad_of_scale, grad_of_zero] = fake_quantize_learned_backward(
      grad, operand, scale.reshape_symint(blocks.shape), zeros, blocks.block, quant_min, quant_max, grad_scale);
  LearnedGradients out{grad_operand, grad_of_scale.reshape_symint(scale.sym_sizes()), {}};
  if (learns_zero_point(zero_point)) out.zero_point = grad_of_zero.reshape_symint(zero_point->sym_sizes());
  return out;
}

struct QatLinearInt8 : torch::autograd::Function<QatLinearInt8> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Variable& input, const Variable& weight,
                          const std::optional<Variable>& bias, const Variable& input_scale,
                          const Variable& input_zero_point, const Variable& weight_scale, int64_t input_quant_min,
                          int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                          bool input_learned, bool weight_learned, double input_grad_scale, double weight_grad_scale,
                          std::string backward) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [output, codes, mask, packed_weight, weight_mask] = qat_linear_int8_forward(
        input, weight, bias, input_scale, input_zero_point, weight_scale,
        {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, input_learned, weight_learned);
    // The mask's place holds the operand where its scale is learned: that gradient masks by itself.
    ctx->save_for_backward({codes, input_learned ? input : mask, packed_weight, weight_learned ? weight : weight_mask,
                            input_scale, input_zero_point, weight_scale});
    ctx->saved_data["k"] = weight.sym_size(1);
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
    enum { kInput, kWeight, kBias, kInputScale, kZeroPoint, kWeightScale, kArguments = 15 };
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "qat_linear_int8: double backward (create_graph=True) is not supported: the codes have no derivative");
    variable_list out(kArguments);
    if (!grads[0].defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const auto ranges = ctx->saved_data["ranges"].toIntVector();
    const auto learned = ctx->saved_data["learned"].toBoolList();
    const auto grad_scales = ctx->saved_data["grad_scales"].toDoubleVector();
    const auto dtypes = ctx->saved_data["dtypes"].toIntVector();
    const bool has_bias = ctx->saved_data.count("bias_dtype") != 0;
    const auto wants = [&](int argument) {
      if (argument == kBias && !has_bias) return false;
      return ctx->needs_input_grad(argument > kBias && !has_bias ? argument - 1 : argument);
    };
    const bool input_learned = learned[0], weight_learned = learned[1];
    const std::array<bool, 3> wanted = {
        wants(kInput) || (input_learned && (wants(kInputScale) || wants(kZeroPoint))),
        wants(kWeight) || (weight_learned && wants(kWeightScale)), wants(kBias)};
    const auto unless = [](bool is_learned, const at::Tensor& mask) {
      return is_learned ? std::nullopt : std::optional<at::Tensor>(mask);
    };
    auto [grad_input, grad_weight, grad_bias] = qat_linear_int8_backward(
        grads[0], saved[0], unless(input_learned, saved[1]), saved[2], unless(weight_learned, saved[3]), saved[4],
        saved[5], saved[6], ctx->saved_data["k"].toSymInt(), ranges[0], ranges[1],
        static_cast<at::ScalarType>(dtypes[0]), static_cast<at::ScalarType>(dtypes[1]),
        ctx->saved_data["backward"].toStringView(), wanted);
    if (wanted[0]) out[kInput] = grad_input;
    if (wanted[1]) out[kWeight] = grad_weight;
    if (wanted[2]) out[kBias] = grad_bias.to(static_cast<at::ScalarType>(ctx->saved_data["bias_dtype"].toInt()));
    if (wanted[0] && input_learned) {
      const auto g = learned_gradients(grad_input, saved[1], saved[4], saved[5], ranges[0], ranges[1], grad_scales[0]);
      out[kInput] = g.operand;
      out[kInputScale] = g.scale;
      out[kZeroPoint] = g.zero_point;
    }
    if (wanted[1] && weight_learned) {
      const auto g = learned_gradients(grad_weight, saved[3], saved[6], std::nullopt, ranges[2], ranges[3], grad_scales[1]);
      out[kWeight] = g.operand;
      out[kWeightScale] = g.scale;
    }
    return out;
  }
};

at::Tensor qat_linear_int8_autograd(const at::Tensor& input, const at::Tensor& weight,
                                    const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                    const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                                    int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                                    int64_t weight_quant_max, bool input_learned, bool weight_learned,
                                    double input_grad_scale, double weight_grad_scale, c10::string_view backward) {
  parse_backward("qat_linear_int8", backward);
  const auto wants = [](const at::Tensor& t) { return t.requires_grad(); };
  const bool differentiates = wants(input) || wants(weight) || (bias.has_value() && wants(*bias)) ||
                              (input_learned && (wants(input_scale) || wants(input_zero_point))) ||
                              (weight_learned && wants(weight_scale));
  if (at::GradMode::is_enabled() && differentiates) {
    return QatLinearInt8::apply(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min,
                                input_quant_max, weight_quant_min, weight_quant_max, input_learned, weight_learned,
                                input_grad_scale, weight_grad_scale, std::string(backward));
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return qat_linear_int8(input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min,
                         input_quant_max, weight_quant_min, weight_quant_max, input_learned, weight_learned,
                         input_grad_scale, weight_grad_scale, backward);
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("qat_linear_int8", &qat_linear_int8_autograd);
  m.impl("_qat_linear_int8_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("_qat_linear_int8_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace torchqat
