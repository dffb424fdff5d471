// Scratch memory that a thread keeps from call to call.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "ops/torch_headers.h"

namespace torchqat::cpu {

// Starts at a cache line; enlarged in steps of 64 KiB when more is asked for than was kept. To be held in a thread_local.
class ThreadMemory {
 public:
  uint8_t* at_least(int64_t bytes, const char* whose) {
    if (size_ < bytes) {
      const int64_t rounded = (bytes + 65535) / 65536 * 65536;
      size_ = 0;
      memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(rounded))));
      TORCH_CHECK(memory_ != nullptr, whose, ": out of memory for ", rounded, " bytes of scratch");
      size_ = rounded;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<uint8_t, decltype(&std::free)> memory_{nullptr, &std::free};
  int64_t size_ = 0;
};

}  // namespace torchqat::cpu
