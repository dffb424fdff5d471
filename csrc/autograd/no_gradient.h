// An Autograd kernel for ops whose results are constants: nothing is recorded, nothing warns.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

inline void run_below_autograd(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  at::AutoDispatchBelowAutograd below;
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

inline torch::CppFunction no_gradient() { return torch::CppFunction::makeFromBoxedFunction<&run_below_autograd>(); }

}  // namespace torchqat
