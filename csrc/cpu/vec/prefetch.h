// Asking for memory before its turn. A core by itself keeps too few lines in flight to fill the path to the outer caches, and its
// own prefetchers stop at the end of a page; hints that run ahead do not. Hints may point beyond the data: they cannot fault.
#pragma once
#include <cstdint>

#include "numerics/config.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

// For a loop that is about to read `bytes` bytes at from and to write as many at to. stream: it writes past the cache.
template <bool stream, int bytes>
TORCHQAT_INLINE void run_ahead(const void* from, [[maybe_unused]] void* to) {
  // Reads: a page ahead; past the cache nothing is waiting for room, so further. Writes: near, as they displace other lines.
  constexpr uintptr_t read = stream ? 32768 : 4096, write = 1024;
  const auto in = reinterpret_cast<uintptr_t>(from) + read;
  for (int i = 0; i < bytes; i += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(in + i), 0, stream ? 2 : 3);
  }
  if constexpr (!stream) {
    const auto out = reinterpret_cast<uintptr_t>(to) + write;
    for (int i = 0; i < bytes; i += 64) {
#if defined(__AVX512F__)  // every such CPU has the instruction; the compiler's flag for it is another
      asm volatile("prefetchw %0" : : "m"(*reinterpret_cast<const char*>(out + i)));
#else
      __builtin_prefetch(reinterpret_cast<const void*>(out + i), 1, 3);
#endif
    }
  }
}

}  // namespace torchqat::cpu
