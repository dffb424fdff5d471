// Shapes of dorefa_weight and its backward.
#include "ops/torch_headers.h"

#include "ops/dorefa.h"

namespace torchqat {
namespace {

at::Tensor forward(const at::Tensor& input, c10::SymIntArrayRef block_size) {
  check_dorefa_weight(input, block_size);
  return at::empty_like(input);
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& input, c10::SymIntArrayRef block_size) {
  check_dorefa_weight_backward(grad, input, block_size);
  return at::empty_like(input);
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("dorefa_weight", &forward);
  m.impl("_dorefa_weight_backward", &backward);
}

}  // namespace
}  // namespace torchqat
