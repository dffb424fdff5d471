// Shapes of the phases of a transposed convolution and of their image.
#include "ops/phases.h"

namespace torchqat {
namespace {

at::Tensor interleave_meta(const at::Tensor& input, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef lengths) {
  const int64_t phases = check_interleave_phases("_interleave_phases", input, stride, padding, lengths);
  return at::empty_symint(interleaved_sizes(input, phases, lengths), input.options(), input.suggest_memory_format());
}

at::Tensor interleave_backward_meta(const at::Tensor& grad, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef sizes) {
  const int64_t phases = check_interleave_phases("_interleave_phases_backward", grad, stride, padding, sizes);
  return at::empty_symint(phase_sizes(grad, phases, sizes), grad.options(), grad.suggest_memory_format());
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("_interleave_phases", &interleave_meta);
  m.impl("_interleave_phases_backward", &interleave_backward_meta);
}

}  // namespace torchqat
