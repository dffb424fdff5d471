// What layers under autocast share: their float32 result, rounded once to the autocast dtype.
#pragma once
#include "ops/torch_headers.h"

#include <ATen/autocast_mode.h>

namespace torchqat {

template <c10::DeviceType device>
at::Tensor rounded(const at::Tensor& y) {
  return y.scalar_type() == at::kFloat ? y.to(at::autocast::get_autocast_dtype(device)) : y;
}

}  // namespace torchqat
