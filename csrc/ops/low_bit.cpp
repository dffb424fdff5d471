// Schemas, checks and C++ entry points of the low-bit ops. Ternary is the integer grid {-1, 0, 1}: it decomposes.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/fake_quantize.h"
#include "ops/low_bit.h"
#include "torchqat/low_bit.h"

namespace torchqat {
namespace {

using Qparams = std::tuple<at::Tensor, at::Tensor>;

Qparams choose_qparams_mse_symint(const at::Tensor& input, c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                  bool symmetric) {
  static const auto op = find_op<decltype(choose_qparams_mse_symint)>("torchqat::choose_qparams_mse");
  return op.call(input, block_size, quant_min, quant_max, symmetric);
}

at::Tensor ternary_scale(const at::Tensor& input, c10::SymIntArrayRef block_size) {
  check_choose_scale("choose_scale_ternary", input, block_size);
  return std::get<0>(choose_qparams_mse_symint(input, block_size, -1, 1, /*symmetric=*/true));
}

at::Tensor ternary(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size) {
  return fake_quantize_symint(input, scale, std::nullopt, block_size, -1, 1);
}

at::Tensor binary_codes(const at::Tensor& input) {
  check_floating("quantize_binary", "input", input);
  return input.detach().lt(0).to(at::kChar).mul(-2).add(1);
}

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "choose_qparams_mse(Tensor input, SymInt[] block_size, int quant_min, int quant_max, bool symmetric) "
      "-> (Tensor scale, Tensor zero_point)");
  m.def("choose_scale_binary(Tensor input, SymInt[] block_size) -> Tensor");
  m.def("choose_scale_ternary(Tensor input, SymInt[] block_size) -> Tensor", &ternary_scale);
  m.def("fake_quantize_binary(Tensor input, Tensor scale, SymInt[] block_size) -> Tensor");
  m.def("fake_quantize_ternary(Tensor input, Tensor scale, SymInt[] block_size) -> Tensor", &ternary);
  m.def("quantize_binary(Tensor input) -> Tensor", &binary_codes);
}

}  // namespace

SymSizes check_choose_scale(const char* op, const at::Tensor& input, c10::SymIntArrayRef block_size) {
  check_floating(op, "input", input);
  return scale_shape(op, input.sym_sizes(), block_size);
}

void check_fake_quantize_binary(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size) {
  check_floating("fake_quantize_binary", "input", input);
  check_qparams("fake_quantize_binary", input, scale, std::nullopt, block_size);
}

at::Tensor fake_quantize_binary_symint(const at::Tensor& input, const at::Tensor& scale, c10::SymIntArrayRef block_size) {
  static const auto op = find_op<decltype(fake_quantize_binary_symint)>("torchqat::fake_quantize_binary");
  return op.call(input, scale, block_size);
}

Qparams choose_qparams_mse(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                           bool symmetric) {
  return choose_qparams_mse_symint(input, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, symmetric);
}

at::Tensor choose_scale_binary(const at::Tensor& input, at::IntArrayRef block_size) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, c10::SymIntArrayRef)>("torchqat::choose_scale_binary");
  return op.call(input, c10::fromIntArrayRefSlow(block_size));
}

at::Tensor choose_scale_ternary(const at::Tensor& input, at::IntArrayRef block_size) {
  return ternary_scale(input, c10::fromIntArrayRefSlow(block_size));
}

at::Tensor fake_quantize_binary(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size) {
  return fake_quantize_binary_symint(input, scale, c10::fromIntArrayRefSlow(block_size));
}

at::Tensor fake_quantize_ternary(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size) {
  return ternary(input, scale, c10::fromIntArrayRefSlow(block_size));
}

at::Tensor quantize_binary(const at::Tensor& input) { return binary_codes(input); }

}  // namespace torchqat
