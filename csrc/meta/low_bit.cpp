// Shapes of the low-bit ops.
#include "ops/torch_headers.h"

#include "ops/low_bit.h"
#include "ops/qparams.h"

namespace torchqat {
namespace {

std::tuple<at::Tensor, at::Tensor> choose_qparams_mse_meta(const at::Tensor& input, c10::SymIntArrayRef block_size,
                                                           int64_t quant_min, int64_t quant_max, bool symmetric) {
  const auto shape = check_choose_qparams("choose_qparams_mse", input, block_size, quant_min, quant_max, symmetric);
  return {at::empty_symint(shape, input.options().dtype(compute_type(input))),
          at::empty_symint(shape, input.options().dtype(at::kInt))};
}

at::Tensor choose_scale_binary_meta(const at::Tensor& input, c10::SymIntArrayRef block_size) {
  return at::empty_symint(check_choose_scale("choose_scale_binary", input, block_size),
                          input.options().dtype(compute_type(input)));
}

at::Tensor fake_quantize_binary_meta(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size) {
  check_fake_quantize_binary(input, scale, block_size);
  return at::empty_like(input);
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("choose_qparams_mse", &choose_qparams_mse_meta);
  m.impl("choose_scale_binary", &choose_scale_binary_meta);
  m.impl("fake_quantize_binary", &fake_quantize_binary_meta);
}

}  // namespace
}  // namespace torchqat
