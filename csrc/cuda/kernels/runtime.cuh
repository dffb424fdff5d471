// What every kernel file starts from: launching, warp sums in a fixed order, the CUDA runtime's names. Kernels use only what is
// here and the language, so that g++ can compile the same source against the test shim (tests/cpp/cuda/shim).
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace torchqat::cuda {

constexpr int warp_size = 32;
constexpr unsigned full_warp = 0xffffffffu;

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("torchqat: ") + what + ": " + cudaGetErrorString(error));
  }
}

template <typename T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// A grid of one dimension may hold 2^31 - 1 blocks; more work than that has no business in one launch.
inline dim3 blocks_for(int64_t count, int64_t per_block) {
  const int64_t blocks = ceil_div(count, per_block);
  if (blocks > INT32_MAX) {
    throw std::runtime_error("torchqat: the tensor is too large for one CUDA launch");
  }
  return dim3(static_cast<unsigned>(blocks), 1, 1);
}

template <typename... P, typename... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, const A&... args) {
#if defined(__CUDACC__)
  kernel<<<grid, block, 0, stream>>>(static_cast<P>(args)...);
  check(cudaGetLastError(), "kernel launch");
#else
  (void)stream;
  shim::run(grid, block, [&] { kernel(static_cast<P>(args)...); });
#endif
}

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % warp_size; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / warp_size; }

// Combines the warp's values; every lane gets the result. The order is a fixed tree.
template <typename T, typename F>
__device__ T warp_reduce(T value, F combine) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(full_warp, value, offset));
  }
  return value;
}

}  // namespace torchqat::cuda
