// The value of a one-element CPU tensor: read in place where the type is the usual one, since item() goes through the dispatcher.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat::cpu {

inline bool in_place(const at::Tensor& t, at::ScalarType type) { return t.scalar_type() == type && t.is_cpu() && t.numel() == 1; }

inline float float_value(const at::Tensor& t) {
  return in_place(t, at::kFloat) ? *t.const_data_ptr<float>() : t.item<float>();
}

inline double number_value(const at::Tensor& t) {
  return in_place(t, at::kInt) ? static_cast<double>(*t.const_data_ptr<int>()) : t.item<double>();
}

inline int64_t integer_value(const at::Tensor& t) {
  return in_place(t, at::kInt) ? *t.const_data_ptr<int>() : t.item<int64_t>();
}

// float32 and contiguous, itself where it is.
inline at::Tensor float_values(const at::Tensor& t) {
  return t.scalar_type() == at::kFloat && t.is_contiguous() ? t : t.to(at::kFloat).contiguous();
}

}  // namespace torchqat::cpu
