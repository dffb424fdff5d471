// What the gradients of the integer training layers have in common: the numbers they keep, which gradients are wanted, and
// the rule of learned scales. No arithmetic.
#pragma once
#include "ops/learned.h"
#include "ops/qat_linear_int8.h"

namespace torchqat {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// One integer in the context: an entry of its own, or a list's memory, costs as much as a small layer's product.
struct LayerNumbers {
  CodeRanges ranges{};
  bool input_learned = false, weight_learned = false, has_bias = false;
  at::ScalarType input_dtype = at::kFloat, weight_dtype = at::kFloat, bias_dtype = at::kFloat;
  int64_t group_size = 0;
  Backward way = Backward::automatic;
  double input_grad_scale = 1.0, weight_grad_scale = 1.0;

  void save(AutogradContext* ctx) const {
    Bits bits;
    const auto put = [&](int64_t value, int width) { bits.put(value, width); };
    put(ranges.input_min + 128, 9);
    put(ranges.input_max + 128, 9);
    put(ranges.weight_min + 128, 9);
    put(ranges.weight_max + 128, 9);
    for (const bool flag : {input_learned, weight_learned, has_bias}) put(flag ? 1 : 0, 1);
    for (const auto dtype : {input_dtype, weight_dtype, bias_dtype}) put(static_cast<int64_t>(dtype), 7);
    put(static_cast<int64_t>(way), 2);
    ctx->saved_data["numbers"] = bits.value;
    if (group_size > 0) ctx->saved_data["group_size"] = group_size;
    if (input_learned || weight_learned) {
      ctx->saved_data["grad_scales"] = std::vector<double>{input_grad_scale, weight_grad_scale};
    }
  }

  explicit LayerNumbers(AutogradContext* ctx) {
    Bits bits{ctx->saved_data["numbers"].toInt()};
    ranges.input_min = bits.take(9) - 128;
    ranges.input_max = bits.take(9) - 128;
    ranges.weight_min = bits.take(9) - 128;
    ranges.weight_max = bits.take(9) - 128;
    for (bool* flag : {&input_learned, &weight_learned, &has_bias}) *flag = bits.take(1) != 0;
    for (auto* dtype : {&input_dtype, &weight_dtype, &bias_dtype}) *dtype = static_cast<at::ScalarType>(bits.take(7));
    way = static_cast<Backward>(bits.take(2));
    const auto group = ctx->saved_data.find("group_size");
    if (group != ctx->saved_data.end()) group_size = group->second.toInt();
    if (input_learned || weight_learned) {
      const auto scales = ctx->saved_data["grad_scales"].toDoubleVector();
      input_grad_scale = scales[0];
      weight_grad_scale = scales[1];
    }
  }

  LayerNumbers(const Variable& input, const Variable& weight, const OptionalTensor& bias, const CodeRanges& codes,
               bool learned_input, bool learned_weight, double input_scale, double weight_scale, Backward backward,
               int64_t group = 0)
      : ranges(codes), input_learned(learned_input), weight_learned(learned_weight), has_bias(bias.has_value()),
        input_dtype(input.scalar_type()), weight_dtype(weight.scalar_type()),
        bias_dtype(bias.has_value() ? bias->scalar_type() : at::kFloat), group_size(group), way(backward),
        input_grad_scale(input_scale), weight_grad_scale(weight_scale) {}

 private:
  // Numbers that are not negative side by side in 63 bits, taken in the order they were put in.
  struct Bits {
    int64_t value = 0;
    int at = 0;

    void put(int64_t number, int width) {
      TORCH_INTERNAL_ASSERT(number >= 0 && number < int64_t{1} << width && at + width < 64);
      value |= number << at;
      at += width;
    }
    int64_t take(int width) {
      const int64_t number = value >> at & ((int64_t{1} << width) - 1);
      at += width;
      return number;
    }
  };
};

inline c10::string_view name_of(Backward way) {
  switch (way) {
    case Backward::float32: return "float32";
    case Backward::bfloat16: return "bfloat16";
    case Backward::int16: return "int16";
    default: return "auto";
  }
}

// The layers' first six arguments.
enum LayerArgument { kInput, kWeight, kBias, kInputScale, kZeroPoint, kWeightScale };

// What the layer's product has to give: a learned scale's gradient comes from its operand's. Function numbers the tensor
// arguments; an absent bias has no number.
struct WantedGradients {
  std::array<bool, 3> product;

  WantedGradients(AutogradContext* ctx, const LayerNumbers& numbers) {
    const auto wants = [&](int argument) {
      return ctx->needs_input_grad(static_cast<size_t>(argument > kBias && !numbers.has_bias ? argument - 1 : argument));
    };
    product = {wants(kInput) || (numbers.input_learned && (wants(kInputScale) || wants(kZeroPoint))),
               wants(kWeight) || (numbers.weight_learned && wants(kWeightScale)), numbers.has_bias && wants(kBias)};
  }
};

// Whether a gradient has to be recorded at all.
inline bool differentiates(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                           const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                           const OptionalTensor& weight_scale, bool input_learned, bool weight_learned) {
  if (!at::GradMode::is_enabled()) return false;
  const auto wants = [](const OptionalTensor& t) { return t.has_value() && t->requires_grad(); };
  return wants(input) || wants(weight) || wants(bias) ||
         (input_learned && (wants(input_scale) || wants(input_zero_point))) || (weight_learned && wants(weight_scale));
}

struct LearnedGradients {
  at::Tensor operand, scale, zero_point;
};

// LSQ's rule for an operand whose blocks of one scale are its whole, its rows (what runs along the last dimension) or groups
// of `group` along the last dimension.
inline LearnedGradients learned_gradients(const at::Tensor& grad, const at::Tensor& operand, const at::Tensor& scale,
                                          const OptionalTensor& zero_point, int64_t quant_min, int64_t quant_max,
                                          double grad_scale, int64_t group = 0) {
  c10::SymDimVector block, shape(scale.sym_sizes());
  if (group > 0) {
    block = {c10::SymInt(1), c10::SymInt(group)};
  } else if (scale.sym_numel() != 1) {
    block = c10::SymDimVector(static_cast<size_t>(operand.dim()), c10::SymInt(1));
    block.back() = -1;
    shape = c10::SymDimVector(operand.sym_sizes());
    shape.back() = 1;
  }
  OptionalTensor zeros;
  if (zero_point.has_value()) zeros = zero_point->reshape_symint(shape);
  auto [grad_operand, grad_of_scale, grad_of_zero] = fake_quantize_learned_backward(
      grad, operand, scale.reshape_symint(shape), zeros, block, quant_min, quant_max, grad_scale);
  LearnedGradients out{grad_operand, grad_of_scale.reshape_symint(scale.sym_sizes()), {}};
  if (learns_zero_point(zero_point)) out.zero_point = grad_of_zero.reshape_symint(zero_point->sym_sizes());
  return out;
}

// The product's gradients and, where scales are learned, theirs, each in its argument's place. `input` and `weight` are the
// operands where their scale is learned.
inline variable_list layer_gradients(const LayerNumbers& numbers, const std::array<bool, 3>& wanted, const Gradients& product,
                                     const at::Tensor& input, const at::Tensor& weight, const at::Tensor& input_scale,
                                     const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int arguments) {
  variable_list out(static_cast<size_t>(arguments));
  const auto& [grad_input, grad_weight, grad_bias] = product;
  if (wanted[2]) out[kBias] = numbers.bias_dtype == at::kFloat ? grad_bias : grad_bias.to(numbers.bias_dtype);
  if (wanted[0] && !numbers.input_learned) out[kInput] = grad_input;
  if (wanted[1] && !numbers.weight_learned) out[kWeight] = grad_weight;
  if (wanted[0] && numbers.input_learned) {
    const auto g = learned_gradients(grad_input, input, input_scale, input_zero_point, numbers.ranges.input_min,
                                     numbers.ranges.input_max, numbers.input_grad_scale);
    out[kInput] = g.operand;
    out[kInputScale] = g.scale;
    out[kZeroPoint] = g.zero_point;
  }
  if (wanted[1] && numbers.weight_learned) {
    const auto g = learned_gradients(grad_weight, weight, weight_scale, std::nullopt, numbers.ranges.weight_min,
                                     numbers.ranges.weight_max, numbers.weight_grad_scale, numbers.group_size);
    out[kWeight] = g.operand;
    out[kWeightScale] = g.scale;
  }
  return out;
}

}  // namespace torchqat
