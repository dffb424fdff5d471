// One lane of float or double with the interface that numerics/ wants of a vector (cpu/vec), and memory in packets of eight
// elements: 16-byte loads and stores where the address allows.
#pragma once
#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/kernels/affine.h"
#include "cpu/vec/half_types.h"
#include "cuda/kernels/runtime.cuh"
#include "numerics/rounding.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

template <typename S>
struct Lane {
  using Scalar = S;
  S v;
  Lane() = default;
  TORCHQAT_INLINE Lane(S x) : v(x) {}
};

template <typename S> TORCHQAT_INLINE Lane<S> operator+(Lane<S> a, Lane<S> b) { return a.v + b.v; }
template <typename S> TORCHQAT_INLINE Lane<S> operator-(Lane<S> a, Lane<S> b) { return a.v - b.v; }
template <typename S> TORCHQAT_INLINE Lane<S> operator*(Lane<S> a, Lane<S> b) { return a.v * b.v; }
template <typename S> TORCHQAT_INLINE Lane<S> operator/(Lane<S> a, Lane<S> b) { return a.v / b.v; }
template <typename S> TORCHQAT_INLINE Lane<S> round_even(Lane<S> a) { return round_even(a.v); }
template <typename S> TORCHQAT_INLINE Lane<S> lane_max(Lane<S> a, Lane<S> b) { return lane_max(a.v, b.v); }
template <typename S> TORCHQAT_INLINE Lane<S> lane_min(Lane<S> a, Lane<S> b) { return lane_min(a.v, b.v); }
template <typename S> TORCHQAT_INLINE Lane<S> lane_abs(Lane<S> a) { return lane_abs(a.v); }
TORCHQAT_INLINE Lane<float> lane_fma(Lane<float> a, Lane<float> b, Lane<float> c) { return ::fmaf(a.v, b.v, c.v); }
TORCHQAT_INLINE Lane<double> lane_fma(Lane<double> a, Lane<double> b, Lane<double> c) { return ::fma(a.v, b.v, c.v); }
template <typename S> TORCHQAT_INLINE bool in_range(Lane<S> x, Lane<S> low, Lane<S> high) {
  return in_range(x.v, low.v, high.v);
}
template <typename S> TORCHQAT_INLINE bool exceeds(Lane<S> a, Lane<S> b) { return a.v > b.v; }
template <typename S> TORCHQAT_INLINE bool is_nan(Lane<S> x) { return is_nan(x.v); }
template <typename S> TORCHQAT_INLINE Lane<S> select(bool m, Lane<S> a, Lane<S> b) { return m ? a : b; }

}  // namespace torchqat::numerics

namespace torchqat::cuda {

using cpu::Bf16;
using cpu::Half;
using numerics::Lane;

// The type an element is computed in.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename S, typename T>
TORCHQAT_INLINE S widen(T x) {
  if constexpr (std::is_same_v<T, Bf16>) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
  } else if constexpr (std::is_same_v<T, Half>) {
#if defined(__CUDACC__)
    __half_raw raw;
    raw.x = x.bits;
    return __half2float(__half(raw));
#else
    _Float16 h;
    memcpy(&h, &x.bits, sizeof h);
    return static_cast<float>(h);
#endif
  } else {
    return static_cast<S>(x);
  }
}

// Rounds once, to nearest even, to 16-bit floats; integers must fit.
template <typename T, typename S>
TORCHQAT_INLINE T narrow(S x) {
  if constexpr (std::is_same_v<T, Bf16>) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return {static_cast<uint16_t>(x != x ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  } else if constexpr (std::is_same_v<T, Half>) {
#if defined(__CUDACC__)
    return {static_cast<uint16_t>(x != x ? 0x7e00u : static_cast<__half_raw>(__float2half_rn(x)).x)};
#else
    const _Float16 h = static_cast<_Float16>(x);
    Half out;
    memcpy(&out.bits, &h, sizeof h);
    return x != x ? Half{0x7e00} : out;
#endif
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(static_cast<int32_t>(x));
  } else {
    return static_cast<T>(x);
  }
}

// Calls f with a null pointer of the element's type.
template <typename F>
void with_float(cpu::Float type, F f) {
  switch (type) {
    case cpu::Float::f32: return f(static_cast<float*>(nullptr));
    case cpu::Float::bf16: return f(static_cast<Bf16*>(nullptr));
    case cpu::Float::f16: return f(static_cast<Half*>(nullptr));
    case cpu::Float::f64: return f(static_cast<double*>(nullptr));
  }
}

constexpr int packet = 8;

// Eight elements at an address that is a multiple of 16 bytes, or of the packet where that is shorter.
template <typename T>
__device__ __forceinline__ void load_packet(const T* p, T (&values)[packet]) {
  if constexpr (sizeof(T) == 1) {
    const uint2 words = *reinterpret_cast<const uint2*>(p);
    memcpy(values, &words, sizeof words);
  } else {
    uint4 words[sizeof(T) / 2];
#pragma unroll
    for (size_t i = 0; i < sizeof(T) / 2; ++i) words[i] = reinterpret_cast<const uint4*>(p)[i];
    memcpy(values, words, sizeof words);
  }
}

template <typename T>
__device__ __forceinline__ void store_packet(T* p, const T (&values)[packet]) {
  if constexpr (sizeof(T) == 1) {
    uint2 words;
    memcpy(&words, values, sizeof words);
    *reinterpret_cast<uint2*>(p) = words;
  } else {
    uint4 words[sizeof(T) / 2];
    memcpy(words, values, sizeof words);
#pragma unroll
    for (size_t i = 0; i < sizeof(T) / 2; ++i) reinterpret_cast<uint4*>(p)[i] = words[i];
  }
}

template <typename T>
bool packets_fit(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (sizeof(T) == 1 ? 8 : 16) == 0;
}

// First n of eight elements, the rest zero.
template <typename T>
__device__ __forceinline__ void load_some(const T* p, int n, bool whole, T (&values)[packet]) {
  if (whole) {
    load_packet(p, values);
    return;
  }
#pragma unroll
  for (int j = 0; j < packet; ++j) values[j] = j < n ? p[j] : T{};
}

template <typename T>
__device__ __forceinline__ void store_some(T* p, int n, bool whole, const T (&values)[packet]) {
  if (whole) {
    store_packet(p, values);
    return;
  }
#pragma unroll
  for (int j = 0; j < packet; ++j) {
    if (j < n) p[j] = values[j];
  }
}

}  // namespace torchqat::cuda
