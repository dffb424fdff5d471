// quantize and dequantize are constants to autograd.
#include "ops/torch_headers.h"

#include "autograd/no_gradient.h"

namespace torchqat {
namespace {

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("quantize", no_gradient());
  m.impl("dequantize", no_gradient());
}

}  // namespace
}  // namespace torchqat
