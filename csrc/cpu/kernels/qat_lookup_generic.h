// The source of qat_lookup_{scalar,avx2,avx512}.cpp: chunks of 16 elements, two bytes of the mask; a last, shorter one goes
// through buffers.
#pragma once
#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu/kernels/qat_lookup.h"
#include "cpu/vec/vec.h"
#include "numerics/affine.h"
#include "numerics/quotient.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

using numerics::Vec;
constexpr int kChunk = 16;

// table[index[i]] of Vec::size bytes.
TORCHQAT_INLINE Vec entries_at(const float* table, const uint8_t* index) {
#if defined(__AVX512F__)
  const __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index)));
  return Vec{_mm512_i32gather_ps(at, table, 4)};
#elif defined(__AVX2__)
  const __m256i at = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(index)));
  return Vec{_mm256_i32gather_ps(table, at, 4)};
#else
  return Vec(table[*index]);
#endif
}

struct LookupGrid {
  Vec scale, reciprocal, zero, low, high;
  explicit LookupGrid(const forms::Grid& g)
      : scale(g.scale), reciprocal(numerics::quotient_reciprocal(g.scale)), zero(g.zero_point), low(g.quant_min), high(g.quant_max) {}
};

// Returns the chunk's bits.
TORCHQAT_INLINE uint32_t lookup_chunk(const LookupGrid& g, const float* table, const float* in, float* out, uint8_t* index) {
  const Vec nan(std::numeric_limits<float>::quiet_NaN());
  uint32_t bits = 0;
#pragma GCC unroll 16
  for (int j = 0; j < kChunk; j += Vec::size) {
    const Vec level = numerics::rounded_quotient(Vec::load(in + j), g.scale, g.reciprocal) + g.zero;
    const auto lost = numerics::is_nan(level);
    numerics::select(lost, Vec(0.0f), numerics::clamp_level(level, g.low, g.high) - g.low).store(index + j);
    numerics::select(lost, nan, entries_at(table, index + j)).store(out + j);
    bits |= numerics::mask_bits(numerics::in_range(level, g.low, g.high)) << j;
  }
  return bits;
}

void lookup(const QatLookup& task, int64_t begin, int64_t end) {
  const LookupGrid grid(task.grid);
  int64_t i = begin;
  for (; i + kChunk <= end; i += kChunk) {
    const auto bits = static_cast<uint16_t>(lookup_chunk(grid, task.table, task.input + i, task.out + i, task.index + i));
    std::memcpy(task.mask + i / 8, &bits, sizeof bits);
  }
  if (i == end) return;
  const auto left = static_cast<size_t>(end - i);
  float in[kChunk] = {}, out[kChunk];
  uint8_t index[kChunk];
  std::memcpy(in, task.input + i, left * sizeof(float));
  const auto bits = static_cast<uint16_t>(lookup_chunk(grid, task.table, in, out, index) & ((1u << left) - 1u));
  std::memcpy(task.out + i, out, left * sizeof(float));
  std::memcpy(task.index + i, index, left);
  std::memcpy(task.mask + i / 8, &bits, (left + 7) / 8);
}

TORCHQAT_INLINE void slope_chunk(const float* slope, const float* grad, const uint8_t* index, uint32_t bits, float* out) {
#pragma GCC unroll 16
  for (int j = 0; j < kChunk; j += Vec::size) {
    const Vec dx = Vec::load(grad + j) * entries_at(slope, index + j);
    numerics::select(Vec::from_bits(bits >> j), dx, Vec(0.0f)).store(out + j);
  }
}

void lookup_backward(const QatLookupBackward& task, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + kChunk <= end; i += kChunk) {
    uint16_t bits;
    std::memcpy(&bits, task.mask + i / 8, sizeof bits);
    slope_chunk(task.slope, task.grad + i, task.index + i, bits, task.out + i);
  }
  if (i == end) return;
  const auto left = static_cast<size_t>(end - i);
  float grad[kChunk] = {}, out[kChunk];
  uint8_t index[kChunk] = {};
  uint16_t bits = 0;
  std::memcpy(grad, task.grad + i, left * sizeof(float));
  std::memcpy(index, task.index + i, left);
  std::memcpy(&bits, task.mask + i / 8, (left + 7) / 8);
  slope_chunk(task.slope, grad, index, bits, out);
  std::memcpy(task.out + i, out, left * sizeof(float));
}

}  // namespace torchqat::cpu
