// Schemas, checks and C++ entry points of fake_quantize_learned and fake_quantize_pact.
#include "ops/torch_headers.h"

#include <cmath>

#include "ops/call.h"
#include "ops/learned.h"
#include "torchqat/learned.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "fake_quantize_learned(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, "
      "int quant_max, float grad_scale) -> Tensor");
  m.def(
      "_fake_quantize_learned_backward(Tensor grad, Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, "
      "int quant_min, int quant_max, float grad_scale) -> (Tensor grad_input, Tensor grad_scale, Tensor grad_zero_point)");
  m.def(
      "fake_quantize_pact(Tensor input, Tensor scale, SymInt[] block_size, int quant_min, int quant_max, float grad_scale) "
      "-> Tensor");
  m.def(
      "_fake_quantize_pact_backward(Tensor grad, Tensor input, Tensor scale, SymInt[] block_size, int quant_min, int quant_max, "
      "float grad_scale) -> (Tensor grad_input, Tensor grad_scale)");
}

void check_fake_quantize_learned(const char* op, const at::Tensor& input, const at::Tensor& scale,
                                 const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                 int64_t quant_min, int64_t quant_max, double grad_scale) {
  check_floating(op, "input", input);
  check_grid(op, quant_min, quant_max);
  check_qparams(op, input, scale, zero_point, block_size, /*floating_zero_point=*/true);
  TORCH_CHECK_VALUE(std::isfinite(grad_scale), op, ": grad_scale must be finite, got ", grad_scale);
}

void check_fake_quantize_learned_backward(const char* op, const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
                                          const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                          int64_t quant_min, int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned(op, input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
  check_like_input(op, grad, input);
}

at::Tensor fake_quantize_learned_symint(const at::Tensor& input, const at::Tensor& scale,
                                        const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                        int64_t quant_min, int64_t quant_max, double grad_scale) {
  static const auto op = find_op<decltype(fake_quantize_learned_symint)>("torchqat::fake_quantize_learned");
  return op.call(input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
}

at::Tensor fake_quantize_learned(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                 at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, double grad_scale) {
  return fake_quantize_learned_symint(input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max,
                                      grad_scale);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fake_quantize_learned_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
    c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, double grad_scale) {
  static const auto op = find_op<decltype(fake_quantize_learned_backward)>("torchqat::_fake_quantize_learned_backward");
  return op.call(grad, input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
}

at::Tensor fake_quantize_pact_symint(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size,
                                     int64_t quant_min, int64_t quant_max, double grad_scale) {
  static const auto op = find_op<decltype(fake_quantize_pact_symint)>("torchqat::fake_quantize_pact");
  return op.call(input, scale, block_size, quant_min, quant_max, grad_scale);
}

at::Tensor fake_quantize_pact(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size, int64_t quant_min,
                              int64_t quant_max, double grad_scale) {
  return fake_quantize_pact_symint(input, scale, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, grad_scale);
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_pact_backward(const at::Tensor& grad, const at::Tensor& input,
                                                               const at::Tensor& scale, c10::SymIntArrayRef block_size,
                                                               int64_t quant_min, int64_t quant_max, double grad_scale) {
  static const auto op = find_op<decltype(fake_quantize_pact_backward)>("torchqat::_fake_quantize_pact_backward");
  return op.call(grad, input, scale, block_size, quant_min, quant_max, grad_scale);
}

}  // namespace torchqat
