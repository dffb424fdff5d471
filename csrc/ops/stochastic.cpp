// Schemas and C++ entry points of fake_quantize_stochastic; arguments are checked by check_fake_quantize.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/stochastic.h"
#include "torchqat/stochastic.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "fake_quantize_stochastic(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, "
      "int quant_max, int seed, int offset) -> Tensor");
  m.def(
      "_fake_quantize_stochastic_forward(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, "
      "int quant_max, int seed, int offset) -> (Tensor output, Tensor mask)");
}

at::Tensor fake_quantize_stochastic_symint(const at::Tensor& input, const at::Tensor& scale,
                                           const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                                           int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset) {
  static const auto op = find_op<decltype(fake_quantize_stochastic_symint)>("torchqat::fake_quantize_stochastic");
  return op.call(input, scale, zero_point, block_size, quant_min, quant_max, seed, offset);
}

at::Tensor fake_quantize_stochastic(const at::Tensor& input, const at::Tensor& scale,
                                    const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                    int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset) {
  return fake_quantize_stochastic_symint(input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max,
                                         seed, offset);
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_stochastic_forward(const at::Tensor& input, const at::Tensor& scale,
                                                                    const std::optional<at::Tensor>& zero_point,
                                                                    c10::SymIntArrayRef block_size, int64_t quant_min,
                                                                    int64_t quant_max, int64_t seed, int64_t offset) {
  static const auto op = find_op<decltype(fake_quantize_stochastic_forward)>("torchqat::_fake_quantize_stochastic_forward");
  return op.call(input, scale, zero_point, block_size, quant_min, quant_max, seed, offset);
}

}  // namespace torchqat
