// A c10 allocator over malloc, and tensors from it.
#include "ops/torch_headers.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

#include <cstdlib>

#include "cpu/output.h"
#include "cpu/pages.h"

namespace torchqat::cpu {
namespace {

constexpr size_t alignment = 64;

struct MallocAllocator final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, at::Device(at::kCPU)};
    void* block = std::malloc(bytes + alignment);
    TORCH_CHECK(block != nullptr, "torchqat: not enough memory, ", bytes, " bytes were asked for");
    const auto address = reinterpret_cast<uintptr_t>(block);
    void* data = static_cast<char*>(block) + (alignment - address % alignment);
    prefer_huge_pages(data, bytes);
    c10::profiledCPUMemoryReporter().New(block, bytes);
    return {data, block, &release, at::Device(at::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }  // data is not what is freed
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  static void release(void* block) {
    if (block == nullptr) return;
    c10::profiledCPUMemoryReporter().Delete(block);
    std::free(block);
  }
};

MallocAllocator allocator;
constexpr c10::DispatchKeySet cpu_keys(c10::DispatchKey::CPU);

}  // namespace

at::Tensor result_like(const at::Tensor& x) {
  if (!x.is_non_overlapping_and_dense()) return at::detail::empty_generic(x.sizes(), &allocator, cpu_keys, x.scalar_type(), std::nullopt);
  return at::detail::empty_strided_generic(x.sizes(), x.strides(), &allocator, cpu_keys, x.scalar_type());
}

at::Tensor result_bytes(int64_t count) { return result_of({count}, at::kByte); }

at::Tensor result_of(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::detail::empty_generic(sizes, &allocator, cpu_keys, dtype, std::nullopt);
}

}  // namespace torchqat::cpu
