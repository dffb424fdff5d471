// Large pages through madvise, where the system has it. Weights are packed one after another when a model is converted or
// loaded, so they share regions: a page of its own for each would leave their last, broken ones small.
#include "cpu/large_pages.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace torchqat {

#if defined(__linux__) && defined(MADV_HUGEPAGE)
namespace {

constexpr size_t kLargePage = size_t{1} << 21, kSmallPage = size_t{1} << 12;
constexpr size_t kRegion = size_t{64} << 20;  // address space; what is not touched costs nothing
constexpr size_t kSmallest = size_t{64} << 10;

size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

// Mapped memory that begins at a large page, handed out in ascending order, unmapped with the last tensor on it.
class Region {
 public:
  explicit Region(size_t size) : mapping_(size + kLargePage) {
    void* mapped = mmap(nullptr, mapping_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return;
    mapped_ = static_cast<uint8_t*>(mapped);
    begin_ = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uintptr_t>(mapped_), kLargePage));
    size_ = size;
    madvise(begin_, size_, MADV_HUGEPAGE);
  }
  ~Region() {
    if (mapped_ != nullptr) munmap(mapped_, mapping_);
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  uint8_t* take(size_t size) {
    if (size > size_ - used_) return nullptr;
    uint8_t* memory = begin_ + used_;
    used_ += size;
    return memory;
  }

  // The small pages that lie wholly within go back to the system at once; addresses are not used again.
  static void give_back(uint8_t* memory, size_t size) {
    const uintptr_t first = round_up(reinterpret_cast<uintptr_t>(memory), kSmallPage);
    const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + size) / kSmallPage * kSmallPage;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

 private:
  size_t mapping_;
  uint8_t *mapped_ = nullptr, *begin_ = nullptr;
  size_t size_ = 0, used_ = 0;
};

}  // namespace

at::Tensor empty_on_large_pages(int64_t bytes) {
  const size_t size = round_up(static_cast<size_t>(bytes), 64);
  if (size < kSmallest) return at::empty({bytes}, at::kByte);
  static std::mutex mutex;
  static std::weak_ptr<Region> latest;
  std::shared_ptr<Region> region;
  uint8_t* memory = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    region = latest.lock();
    if (region != nullptr) memory = region->take(size);
    if (memory == nullptr) {
      region = std::make_shared<Region>(std::max(kRegion, round_up(size, kLargePage)));
      memory = region->take(size);
      if (memory != nullptr) latest = region;
    }
  }
  if (memory == nullptr) return at::empty({bytes}, at::kByte);
  const auto release = [region, size](void* p) { Region::give_back(static_cast<uint8_t*>(p), size); };
  return at::from_blob(memory, {bytes}, release, at::TensorOptions().dtype(at::kByte));
}

#else

at::Tensor empty_on_large_pages(int64_t bytes) { return at::empty({bytes}, at::kByte); }

#endif

}  // namespace torchqat
