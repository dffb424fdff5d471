// What every straight-through Function saves and does in backward: one bit per element, applied by _fake_quantize_backward.
#pragma once
#include "ops/torch_headers.h"

#include "ops/fake_quantize.h"

namespace torchqat {

inline void save_mask(torch::autograd::AutogradContext* ctx, const at::Tensor& output, const at::Tensor& mask) {
  ctx->save_for_backward({mask});
  const auto order = dim_order(output);
  if (!order.empty()) ctx->saved_data["order"] = std::vector<int64_t>(order.begin(), order.end());
}

inline at::Tensor straight_through(torch::autograd::AutogradContext* ctx, const at::Tensor& grad) {
  const auto order = ctx->saved_data.find("order");
  return fake_quantize_backward(grad, ctx->get_saved_variables()[0],
                                order == ctx->saved_data.end() ? std::vector<int64_t>{} : order->second.toIntVector());
}

inline bool needs_gradient(const at::Tensor& input) { return at::GradMode::is_enabled() && input.requires_grad(); }

}  // namespace torchqat
