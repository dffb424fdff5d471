// The int8 training layer's forward with its statistics, as one function on CPU tensors: what autograd calls where nothing
// watches single ops.
#pragma once
#include "ops/qat_linear_int8.h"

namespace torchqat::cpu {

// As qat_linear_int8_observed takes them.
struct ObservedArguments {
  const at::Tensor &input, &weight;
  const OptionalTensor& bias;
  at::Tensor &min_val, &max_val, &nonfinite_count;
  double averaging_constant;
  CodeRanges ranges;
  bool input_symmetric;
};

// What the ops apart give and backward reads; codes, mask and weight_mask only with_masks.
struct ObservedForward {
  at::Tensor output, codes, mask, packed_weight, weight_mask, weight_scale, input_scale, input_zero_point;
};

ObservedForward qat_linear_int8_observed_forward(const ObservedArguments& arguments, bool with_masks);

}  // namespace torchqat::cpu
