// One step of an AVX-VNNI tile: exact products of four bytes, over the operations of gemm_ops.h. Included by ISA files.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/kernels/gemm_ops.h"
#include "numerics/config.h"

namespace torchqat::cpu {
namespace {

// Inline assembly, so that a tile's accumulators stay in registers.
template <typename Op>
TORCHQAT_INLINE __m256i dot(__m256i sum, __m256i a, __m256i b) {
  static_assert(std::is_same_v<Op, U8S8> || std::is_same_v<Op, S8U8>);
  if constexpr (std::is_same_v<Op, U8S8>) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  } else {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(b), "x"(a));
  }
  return sum;
}

TORCHQAT_INLINE __m256i broadcast4(const uint8_t* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
TORCHQAT_INLINE __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

}  // namespace
}  // namespace torchqat::cpu
