// Shapes of the fake-quant family.
#include "ops/torch_headers.h"

#include "ops/fake_quantize.h"
#include "ops/qparams.h"

namespace torchqat {
namespace {

at::Tensor byte_mask(const at::Tensor& input, const c10::SymInt& bytes) {
  return at::empty_symint({bytes}, input.options().dtype(at::kByte));
}

at::Tensor fake_quantize_meta(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                              c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, block_size, quant_min, quant_max);
  return at::empty_like(input);
}

at::Tensor& fake_quantize_out_meta(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                   c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::Tensor& out) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, block_size, quant_min, quant_max);
  check_fake_quantize_out(input, out);
  return out;
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_forward_meta(const at::Tensor& input, const at::Tensor& scale,
                                                              const std::optional<at::Tensor>& zero_point,
                                                              c10::SymIntArrayRef block_size, int64_t quant_min,
                                                              int64_t quant_max) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, block_size, quant_min, quant_max);
  return {at::empty_like(input), byte_mask(input, mask_bytes(input))};
}

at::Tensor fake_quantize_backward_meta(const at::Tensor& grad, const at::Tensor& mask, at::IntArrayRef order) {
  check_fake_quantize_backward(grad, mask, order);
  return empty_in_order(grad, order);
}

at::Tensor fake_quantize_dynamic_meta(const at::Tensor& input, c10::SymIntArrayRef block_size, int64_t quant_min,
                                      int64_t quant_max, bool symmetric) {
  check_choose_qparams("fake_quantize_dynamic", input, block_size, quant_min, quant_max, symmetric);
  return at::empty_like(input);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fake_quantize_dynamic_forward_meta(const at::Tensor& input,
                                                                                  c10::SymIntArrayRef block_size,
                                                                                  int64_t quant_min, int64_t quant_max,
                                                                                  bool symmetric, bool save_mask) {
  check_choose_qparams("fake_quantize_dynamic", input, block_size, quant_min, quant_max, symmetric);
  return {at::empty_like(input), byte_mask(input, save_mask ? mask_bytes(input) : c10::SymInt(0)),
          at::empty({}, input.options().dtype(at::kLong))};
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("fake_quantize", &fake_quantize_meta);
  m.impl("fake_quantize.out", &fake_quantize_out_meta);
  m.impl("_fake_quantize_forward", &fake_quantize_forward_meta);
  m.impl("_fake_quantize_backward", &fake_quantize_backward_meta);
  m.impl("fake_quantize_dynamic", &fake_quantize_dynamic_meta);
  m.impl("_fake_quantize_dynamic_forward", &fake_quantize_dynamic_forward_meta);
}

}  // namespace
}  // namespace torchqat
