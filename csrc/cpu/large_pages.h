// Memory for packed weights that a deployed layer reads again and again. On ordinary 4 KiB pages a stream from memory
// waits for page walks, and the hardware's prefetcher stops at every page; large pages bring up to half as much
// bandwidth again.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

// A 1-D uint8 CPU tensor, not initialised, aligned to 64. Tensors of 64 KiB and more lie one behind the other on pages
// that the system is asked to make large; where it declines, or knows none, this is ordinary memory. Not for what is
// made every training step: a fresh large page must be cleared first.
at::Tensor empty_on_large_pages(int64_t bytes);

}  // namespace torchqat
