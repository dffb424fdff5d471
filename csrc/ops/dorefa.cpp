// Schemas, checks and C++ entry points of dorefa_weight.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/dorefa.h"
#include "torchqat/dorefa.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("dorefa_weight(Tensor input, SymInt[] block_size) -> Tensor");
  m.def("_dorefa_weight_backward(Tensor grad, Tensor input, SymInt[] block_size) -> Tensor");
}

SymSizes check_dorefa_weight(const at::Tensor& input, c10::SymIntArrayRef block_size) {
  check_floating("dorefa_weight", "input", input);
  return scale_shape("dorefa_weight", input.sym_sizes(), block_size);
}

SymSizes check_dorefa_weight_backward(const at::Tensor& grad, const at::Tensor& input, c10::SymIntArrayRef block_size) {
  check_like_input("_dorefa_weight_backward", grad, input);
  return check_dorefa_weight(input, block_size);
}

at::Tensor dorefa_weight_symint(const at::Tensor& input, c10::SymIntArrayRef block_size) {
  static const auto op = find_op<decltype(dorefa_weight_symint)>("torchqat::dorefa_weight");
  return op.call(input, block_size);
}

at::Tensor dorefa_weight(const at::Tensor& input, at::IntArrayRef block_size) {
  return dorefa_weight_symint(input, c10::fromIntArrayRefSlow(block_size));
}

at::Tensor dorefa_weight_backward(const at::Tensor& grad, const at::Tensor& input, c10::SymIntArrayRef block_size) {
  static const auto op = find_op<decltype(dorefa_weight_backward)>("torchqat::_dorefa_weight_backward");
  return op.call(grad, input, block_size);
}

}  // namespace torchqat
