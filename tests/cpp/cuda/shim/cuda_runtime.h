// Stands in for the CUDA runtime when g++ compiles the kernels' own source for the tests: a block's threads are fibers
// that take turns, blocks are a loop, __shared__ is static. Only what the kernels use is here. Test-only.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint2 { unsigned x, y; } __attribute__((aligned(8)));
struct uint4 { unsigned x, y, z, w; } __attribute__((aligned(16)));
struct int2 { int x, y; } __attribute__((aligned(8)));
struct int4 { int x, y, z, w; } __attribute__((aligned(16)));
struct float2 { float x, y; } __attribute__((aligned(8)));
struct float4 { float x, y, z, w; } __attribute__((aligned(16)));
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using cudaError_t = int;
using cudaStream_t = struct CUstream_st*;
constexpr cudaError_t cudaSuccess = 0;
inline const char* cudaGetErrorString(cudaError_t) { return "error"; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}

constexpr int cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76;
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int device);

namespace shim {

// What cudaDeviceGetAttribute tells: 10 * major + minor. 80 unless set.
void set_capability(int capability);

// In which order the threads of a block take turns. A kernel whose result depends on it misses a __syncthreads.
enum class Order { ascending, descending, shuffled };

extern dim3 grid_dim, block_dim, block_idx, thread_idx;

// Runs body once per thread. Throws std::logic_error when threads wait for one another for ever or a warp's lanes
// meet in different collectives.
void run(dim3 grid, dim3 block, const std::function<void()>& body);
void set_order(Order order);
void block_barrier();
// Every lane of the warp hands in `bytes` at `value`; returns the 32 values, valid until the lane's second next exchange.
// `kind` must be the same in all lanes.
const void* warp_exchange(const void* value, size_t bytes, int kind);

template <typename T>
const T* exchange(const T& value, int kind) {
  static_assert(sizeof(T) <= 64);
  return static_cast<const T*>(warp_exchange(&value, sizeof(T), kind));
}
void require_full_warp(unsigned mask);
int lane();

}  // namespace shim

#define threadIdx ::shim::thread_idx
#define blockIdx ::shim::block_idx
#define blockDim ::shim::block_dim
#define gridDim ::shim::grid_dim

inline void __syncthreads() { ::shim::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  ::shim::require_full_warp(mask);
  ::shim::exchange(0, 1);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  ::shim::require_full_warp(mask);
  return ::shim::exchange(value, 2)[source & 31];
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  ::shim::require_full_warp(mask);
  return ::shim::exchange(value, 3)[::shim::lane() ^ lanes];
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  ::shim::require_full_warp(mask);
  const T* all = ::shim::exchange(value, 4);
  const unsigned source = ::shim::lane() + delta;
  return all[source < 32 ? source : ::shim::lane()];
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  ::shim::require_full_warp(mask);
  const int* all = ::shim::exchange(predicate, 5);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= (all[i] != 0 ? 1u : 0u) << i;
  return bits;
}

// Fibers switch only in the collectives above, so plain integer arithmetic is atomic.
template <typename T>
T atomicAdd(T* p, T value) {
  static_assert(std::is_integral_v<T>, "float atomics have no fixed order");
  const T old = *p;
  *p = old + value;
  return old;
}
template <typename T>
T __ldg(const T* p) { return *p; }

inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return c;
}
inline unsigned __float_as_uint(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
inline float __uint_as_float(unsigned u) { float x; std::memcpy(&x, &u, 4); return x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
