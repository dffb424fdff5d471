// Backward ops under autocast: a backward that runs inside the region computes what it computes outside. Their kernels
// call at::mm and at::convolution_backward on float32, which autocast would turn into bfloat16 behind their backs.
#include "ops/torch_headers.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace torchqat {
namespace {

void without_autocast(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  op.callBoxed(stack);
}

void register_all(torch::Library& m) {
  for (const char* name : {"_qat_conv_int8_backward", "_qat_linear_grouped_backward", "_qat_linear_int8_backward",
                           "_linear_block_float_backward", "_linear_float8_backward"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&without_autocast>());
  }
}

TORCH_LIBRARY_IMPL(torchqat, AutocastCPU, m) { register_all(m); }
TORCH_LIBRARY_IMPL(torchqat, AutocastCUDA, m) { register_all(m); }

}  // namespace
}  // namespace torchqat
