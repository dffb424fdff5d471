// The int8 training layer with its statistics, recorded as one function.
#pragma once
#include "cpu/qat_linear_int8.h"

namespace torchqat {

// For plain CPU tensors with no mode, transform or autocast in force.
at::Tensor qat_linear_int8_observed_on_cpu(const cpu::ObservedArguments& arguments, Backward way);

}  // namespace torchqat
