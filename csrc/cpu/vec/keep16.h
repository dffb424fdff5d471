// Sixteen-bit elements, 32 at a time, kept where a bit is set and 0 elsewhere: the gradient of bfloat16 and float16 tensors,
// which needs no arithmetic.
#pragma once
#include <cstdint>

#include "numerics/config.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

// stream: past the cache; `to` is aligned to the vector.
template <bool stream>
TORCHQAT_INLINE void keep16(const uint16_t* from, uint16_t* to, uint32_t bits) {
#if defined(__AVX512BW__)
  const __m512i kept = _mm512_maskz_loadu_epi16(bits, from);
  if constexpr (stream) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), kept);
  } else {
    _mm512_storeu_si512(to, kept);
  }
#elif defined(__AVX2__)
  const __m256i lane = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
  for (int half = 0; half < 2; ++half) {
    const __m256i own = _mm256_and_si256(_mm256_set1_epi16(static_cast<int16_t>(bits >> (16 * half))), lane);
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 16 * half));
    const __m256i kept = _mm256_and_si256(x, _mm256_cmpeq_epi16(own, lane));
    auto* out = reinterpret_cast<__m256i*>(to + 16 * half);
    if constexpr (stream) {
      _mm256_stream_si256(out, kept);
    } else {
      _mm256_storeu_si256(out, kept);
    }
  }
#else
  for (int i = 0; i < 32; ++i) to[i] = (bits >> i) & 1 ? from[i] : uint16_t{0};
#endif
}

}  // namespace torchqat::cpu
