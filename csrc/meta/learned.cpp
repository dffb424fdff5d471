// Shapes of fake_quantize_learned, fake_quantize_pact and their backwards.
#include "ops/torch_headers.h"

#include "ops/learned.h"

namespace torchqat {
namespace {

at::Tensor forward(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                   c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned("fake_quantize_learned", input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
  return at::empty_like(input);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
                                                        const std::optional<at::Tensor>& zero_point,
                                                        c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                                        double grad_scale) {
  check_fake_quantize_learned_backward("_fake_quantize_learned_backward", grad, input, scale, zero_point, block_size, quant_min, quant_max, grad_scale);
  return {at::empty_like(input), at::empty_symint(scale.sym_sizes(), scale.options()),
          learns_zero_point(zero_point) ? at::empty_symint(zero_point->sym_sizes(), zero_point->options())
                                        : at::empty({0}, scale.options())};
}

at::Tensor pact_forward(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size, int64_t quant_min,
                        int64_t quant_max, double grad_scale) {
  check_fake_quantize_learned("fake_quantize_pact", input, scale, std::nullopt, block_size, quant_min, quant_max, grad_scale);
  return at::empty_like(input);
}

std::tuple<at::Tensor, at::Tensor> pact_backward(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
                                                 c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                                 double grad_scale) {
  check_fake_quantize_learned_backward("_fake_quantize_pact_backward", grad, input, scale, std::nullopt, block_size, quant_min,
                                       quant_max, grad_scale);
  return {at::empty_like(input), at::empty_symint(scale.sym_sizes(), scale.options())};
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("fake_quantize_learned", &forward);
  m.impl("_fake_quantize_learned_backward", &backward);
  m.impl("fake_quantize_pact", &pact_forward);
  m.impl("_fake_quantize_pact_backward", &pact_backward);
}

}  // namespace
}  // namespace torchqat
