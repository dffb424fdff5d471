// The phases of a transposed convolution, computed as channels of a plain one, side by side in the image; below the Python layers.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

// input [N, out * phases, *sizes] -> [N, out, *lengths]: output pixel u - padding is phase u % stride of pixel u / stride. The phases
// of an output channel are neighbours, the last dimension's side by side.
at::Tensor interleave_phases(const at::Tensor& input, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef lengths);

// Its transpose: grad [N, out, *lengths] -> [N, out * phases, *sizes].
at::Tensor interleave_phases_backward(const at::Tensor& grad, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef sizes);

// Returns the number of phases. lengths: what the result's spatial sizes will be.
int64_t check_interleave_phases(const char* op, const at::Tensor& tensor, at::IntArrayRef stride, at::IntArrayRef padding,
                                c10::SymIntArrayRef lengths);

// Shapes of both results.
c10::SymDimVector interleaved_sizes(const at::Tensor& input, int64_t phases, c10::SymIntArrayRef lengths);
c10::SymDimVector phase_sizes(const at::Tensor& grad, int64_t phases, c10::SymIntArrayRef sizes);

}  // namespace torchqat
