// Shapes of fake_quantize_stochastic.
#include "ops/torch_headers.h"

#include "ops/fake_quantize.h"
#include "ops/stochastic.h"

namespace torchqat {
namespace {

at::Tensor stochastic(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, int64_t, int64_t) {
  check_fake_quantize("fake_quantize_stochastic", input, scale, zero_point, block_size, quant_min, quant_max);
  return at::empty_like(input);
}

std::tuple<at::Tensor, at::Tensor> stochastic_forward(const at::Tensor& input, const at::Tensor& scale,
                                                      const std::optional<at::Tensor>& zero_point,
                                                      c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                                      int64_t seed, int64_t offset) {
  return {stochastic(input, scale, zero_point, block_size, quant_min, quant_max, seed, offset),
          at::empty_symint({mask_bytes(input)}, input.options().dtype(at::kByte))};
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("fake_quantize_stochastic", &stochastic);
  m.impl("_fake_quantize_stochastic_forward", &stochastic_forward);
}

}  // namespace
}  // namespace torchqat
