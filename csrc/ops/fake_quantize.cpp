// Schemas, checks and C++ entry points of fake_quantize, fake_quantize_dynamic and their forward and backward ops.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/fake_quantize.h"
#include "ops/qparams.h"
#include "torchqat/fake_quantize.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "fake_quantize(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, int quant_max) "
      "-> Tensor");
  m.def(
      "fake_quantize.out(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, int quant_max, "
      "*, Tensor(a!) out) -> Tensor(a!)");
  // mask: uint8 [ceil(numel / 8)], bit i of byte j is element 8 j + i of the output's memory order.
  m.def(
      "_fake_quantize_forward(Tensor input, Tensor scale, Tensor? zero_point, SymInt[] block_size, int quant_min, "
      "int quant_max) -> (Tensor output, Tensor mask)");
  // order: the output's dimensions from the outermost to the innermost in memory, [] = contiguous.
  m.def("_fake_quantize_backward(Tensor grad, Tensor mask, int[] order) -> Tensor");
  m.def("fake_quantize_dynamic(Tensor input, SymInt[] block_size, int quant_min, int quant_max, bool symmetric) -> Tensor");
  m.def(
      "_fake_quantize_dynamic_forward(Tensor input, SymInt[] block_size, int quant_min, int quant_max, bool symmetric, "
      "bool save_mask) -> (Tensor output, Tensor mask, Tensor nonfinite)");
}

void check_fake_quantize(const char* op, const at::Tensor& input, const at::Tensor& scale,
                         const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size, int64_t quant_min,
                         int64_t quant_max) {
  check_floating(op, "input", input);
  check_grid(op, quant_min, quant_max);
  check_qparams(op, input, scale, zero_point, block_size);
}

void check_fake_quantize_out(const at::Tensor& input, const at::Tensor& out) {
  TORCH_CHECK_TYPE(out.scalar_type() == input.scalar_type(), "fake_quantize: out must have the input's dtype ",
                   dtype_name(input.scalar_type()), ", got ", dtype_name(out.scalar_type()));
  TORCH_CHECK_VALUE(out.device() == input.device(), "fake_quantize: out must be on the input's device ", input.device(),
                    ", got ", out.device());
  TORCH_CHECK_VALUE(out.sym_sizes() == input.sym_sizes(), "fake_quantize: out must have the input's shape ", input.sym_sizes(),
                    ", got ", out.sym_sizes());
}

void check_fake_quantize_backward(const at::Tensor& grad, const at::Tensor& mask, at::IntArrayRef order) {
  check_floating("_fake_quantize_backward", "grad", grad);
  TORCH_CHECK_VALUE(mask.scalar_type() == at::kByte && mask.sym_numel() == mask_bytes(grad),
                    "_fake_quantize_backward: mask must be uint8 with ", mask_bytes(grad), " entries, got ", dtype_name(mask.scalar_type()),
                    " ", mask.sym_sizes());
  TORCH_CHECK_VALUE(order.empty() || static_cast<int64_t>(order.size()) == grad.dim(),
                    "_fake_quantize_backward: order must name each of the ", grad.dim(), " dimensions, got ", order);
}

at::Tensor fake_quantize_symint(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  static const auto op = find_op<decltype(fake_quantize_symint)>("torchqat::fake_quantize");
  return op.call(input, scale, zero_point, block_size, quant_min, quant_max);
}

at::Tensor fake_quantize(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  return fake_quantize_symint(input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
}

at::Tensor& fake_quantize_out(at::Tensor& out, const at::Tensor& input, const at::Tensor& scale,
                              const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size, int64_t quant_min,
                              int64_t quant_max) {
  using Signature = at::Tensor&(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::SymIntArrayRef,
                                int64_t, int64_t, at::Tensor&);
  static const auto op = find_op<Signature>("torchqat::fake_quantize", "out");
  return op.call(input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, out);
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_forward(const at::Tensor& input, const at::Tensor& scale,
                                                         const std::optional<at::Tensor>& zero_point,
                                                         c10::SymIntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  static const auto op = find_op<decltype(fake_quantize_forward)>("torchqat::_fake_quantize_forward");
  return op.call(input, scale, zero_point, block_size, quant_min, quant_max);
}

at::Tensor fake_quantize_backward(const at::Tensor& grad, const at::Tensor& mask, at::IntArrayRef order) {
  static const auto op = find_op<decltype(fake_quantize_backward)>("torchqat::_fake_quantize_backward");
  return op.call(grad, mask, order);
}

at::Tensor fake_quantize_dynamic_symint(const at::Tensor& input, c10::SymIntArrayRef block_size, int64_t quant_min,
                                        int64_t quant_max, bool symmetric) {
  static const auto op = find_op<decltype(fake_quantize_dynamic_symint)>("torchqat::fake_quantize_dynamic");
  return op.call(input, block_size, quant_min, quant_max, symmetric);
}

at::Tensor fake_quantize_dynamic(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                 bool symmetric) {
  return fake_quantize_dynamic_symint(input, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, symmetric);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fake_quantize_dynamic_forward(const at::Tensor& input,
                                                                             c10::SymIntArrayRef block_size, int64_t quant_min,
                                                                             int64_t quant_max, bool symmetric, bool save_mask) {
  static const auto op = find_op<decltype(fake_quantize_dynamic_forward)>("torchqat::_fake_quantize_dynamic_forward");
  return op.call(input, block_size, quant_min, quant_max, symmetric, save_mask);
}

}  // namespace torchqat
