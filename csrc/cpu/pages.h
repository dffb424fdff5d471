// Large outputs on huge pages: a new 64 MB tensor costs several times as much in page faults as in copying. No torch.
#pragma once
#include <cstddef>

namespace torchqat::cpu {

// Asks the system to back memory that is about to be written, all of it, with huge pages; does nothing below a few of them or
// where the system has none. A wish: it cannot fail.
void prefer_huge_pages(void* memory, size_t bytes);

}  // namespace torchqat::cpu
