// What every numerics header needs: host/device qualifiers and a namespace of its own per instruction set. A function
// shared between files of different ISA flags could be kept in its AVX-512 form and crash an older CPU.
#pragma once
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define TORCHQAT_INLINE __host__ __device__ __forceinline__
#else
#define TORCHQAT_INLINE inline __attribute__((always_inline))
#endif

#if defined(__CUDACC__)
#define TORCHQAT_ISA_NAMESPACE device
#elif defined(__AMX_INT8__)
#define TORCHQAT_ISA_NAMESPACE amx
#elif defined(__AVX512BF16__)
#define TORCHQAT_ISA_NAMESPACE avx512bf16
#elif defined(__AVX512VBMI__)
#define TORCHQAT_ISA_NAMESPACE avx512vbmi
#elif defined(__AVX512F__)
#define TORCHQAT_ISA_NAMESPACE avx512
#elif defined(__AVXVNNI__)
#define TORCHQAT_ISA_NAMESPACE avxvnni
#elif defined(__AVX2__)
#define TORCHQAT_ISA_NAMESPACE avx2
#else
#define TORCHQAT_ISA_NAMESPACE scalar
#endif
