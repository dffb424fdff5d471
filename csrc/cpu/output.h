// New tensors for results, where the memory's address and pages decide the speed.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat::cpu {

// A dense CPU tensor like x, in its memory order, or contiguous where x is not dense. Its memory is malloc's own block, 64-byte aligned inside: a block that
// posix_memalign cuts to size rarely fits the next request of that size, so memory would wander, and with it out of the cache. Large
// ones are wanted on huge pages.
at::Tensor result_like(const at::Tensor& x);

// The same for bytes.
at::Tensor result_bytes(int64_t count);

// The same, contiguous, of these sizes: an at::empty that does not go through the dispatcher.
at::Tensor result_of(at::IntArrayRef sizes, at::ScalarType dtype);

}  // namespace torchqat::cpu
