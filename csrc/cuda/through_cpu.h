// Ops that are no part of a step (packing that checks its codes, unpacking whose sizes are in the data): by way of the CPU.
#pragma once
#include "ops/call.h"

namespace torchqat::cuda {

template <typename... A>
at::Tensor through_cpu(const char* name, const at::Tensor& tensor, A... rest) {
  const auto op = find_op<at::Tensor(const at::Tensor&, A...)>(name);
  return op.redispatch(c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.cpu(), rest...).to(tensor.device());
}

}  // namespace torchqat::cuda
