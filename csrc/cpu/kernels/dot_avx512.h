// One step of an AVX-512 tile: products of 32-bit groups, over the operations of gemm_ops.h. Included by ISA files.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/kernels/gemm_ops.h"
#include "numerics/config.h"

namespace torchqat::cpu {
namespace {

// The instructions are inline assembly: from the intrinsics gcc 12 spills a tile's accumulators. bfloat16 needs AVX512_BF16.
template <typename Op>
TORCHQAT_INLINE __m512i dot(__m512i sum, __m512i a, __m512i b) {
  if constexpr (std::is_same_v<Op, U8S8>) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  } else if constexpr (std::is_same_v<Op, S8U8>) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a));
  } else {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
  return sum;
}

TORCHQAT_INLINE __m512i broadcast4(const uint8_t* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

}  // namespace
}  // namespace torchqat::cpu
