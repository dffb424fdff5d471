// One tensor-core product of a warp, u8 x s8 -> s32, and the copies that feed it. On the host (tests) the same functions gather
// the lanes' registers and multiply plainly, so that the tiling around them is what is tested.
#pragma once
#include <cstring>

#include "cuda/kernels/runtime.cuh"

namespace torchqat::cuda {

// acc[16 x 8] += a[16 x 32] * b[32 x 8]. With g = lane / 4 and t = lane % 4: word 0 of a is row g, columns 4 t to 4 t + 3; word 1
// row g + 8; words 2 and 3 the same, 16 columns on. Word 0 of b is column g, rows 4 t to 4 t + 3; word 1 is 16 rows on. acc 0 and 1
// are row g, columns 2 t and 2 t + 1; acc 2 and 3 row g + 8. Sums wrap.
__device__ __forceinline__ void mma_u8s8(int32_t (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                   : "+r"(acc[2 * h]), "+r"(acc[2 * h + 1])
                   : "r"(a[2 * k + h]), "r"(b[k]));
    }
  }
#elif !defined(__CUDACC__)
  struct Words {
    uint8_t a[4][4];
    int8_t b[2][4];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  const Words* all = shim::exchange(mine, 6);
  for (int i = 0; i < 4; ++i) {
    const int g = lane() / 4, column = lane() % 4 * 2 + i % 2;
    uint32_t sum = static_cast<uint32_t>(acc[i]);
    for (int k = 0; k < 32; ++k) {
      const int t = k % 16 / 4;
      sum += static_cast<uint32_t>(all[4 * g + t].a[k / 16 * 2 + i / 2][k % 4] * all[4 * column + t].b[k / 16][k % 4]);
    }
    acc[i] = static_cast<int32_t>(sum);
  }
#endif
}

// The a of mma_u8s8 from shared memory: lane l gives the address of the 16 bytes of row l % 16, columns 16 (l / 16) on.
__device__ __forceinline__ void load_fragment(uint32_t (&a)[4], const uint8_t* address) {
#if defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(address)))
               : "memory");
#elif !defined(__CUDACC__)
  const uint8_t* const* rows = shim::exchange(address, 7);
  for (int i = 0; i < 4; ++i) {
    const uint8_t* row = rows[i * 8 + lane() / 4];
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) throw std::logic_error("ldmatrix: rows lie at multiples of 16 bytes");
    std::memcpy(&a[i], row + lane() % 4 * 4, 4);
  }
#endif
}

// acc + the sum of four products of an unsigned and a signed byte.
__device__ __forceinline__ int32_t dot_u8s8(uint32_t a, uint32_t b, int32_t acc) {
#if defined(__CUDA_ARCH__)
  asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(acc) : "r"(a), "r"(b));
  return acc;
#else
  uint32_t sum = static_cast<uint32_t>(acc);
  for (int i = 0; i < 32; i += 8) {
    sum += static_cast<uint32_t>(static_cast<int32_t>(a >> i & 0xff) * static_cast<int8_t>(b >> i & 0xff));
  }
  return static_cast<int32_t>(sum);
#endif
}

// acc + the sum of four products of unsigned bytes, modulo 2^32.
__device__ __forceinline__ uint32_t dot_u8u8(uint32_t a, uint32_t b, uint32_t acc) {
#if defined(__CUDA_ARCH__)
  asm("dp4a.u32.u32 %0, %1, %2, %0;" : "+r"(acc) : "r"(a), "r"(b));
#else
  for (int i = 0; i < 32; i += 8) acc += (a >> i & 0xff) * (b >> i & 0xff);
#endif
  return acc;
}

// Sixteen bytes from global to shared memory, both aligned, complete after commit_copies and wait_copies.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}

__device__ __forceinline__ void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most `pending` of the latest commits are not complete.
template <int pending>
__device__ __forceinline__ void wait_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

}  // namespace torchqat::cuda
