// Depthwise convolution on AVX2 and AVX-VNNI, 32 channels at a time: four taps of a channel are interleaved into the four bytes of
// a double word. Pixels and weights are interleaved alike, so only the sums have to be put back in order. Included by ISA files.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "cpu/kernels/conv_int8.h"
#if defined(__AVXVNNI__)
#include "cpu/kernels/dot_avxvnni.h"
#endif
#include "numerics/config.h"

namespace torchqat::cpu::conv {
namespace {

constexpr int64_t kQuadChannels = 32;

// Lane L, double word i of vector j belongs to channel 16 * L + 4 * j + i.
struct Quad {
  __m256i v[4];
};

TORCHQAT_INLINE Quad zero_quad() {
  const __m256i none = _mm256_setzero_si256();
  return {{none, none, none, none}};
}
TORCHQAT_INLINE __m256i load_codes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

TORCHQAT_INLINE Quad interleave4(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i ab0 = _mm256_unpacklo_epi8(a, b), ab1 = _mm256_unpackhi_epi8(a, b);
  const __m256i cd0 = _mm256_unpacklo_epi8(c, d), cd1 = _mm256_unpackhi_epi8(c, d);
  return {{_mm256_unpacklo_epi16(ab0, cd0), _mm256_unpackhi_epi16(ab0, cd0), _mm256_unpacklo_epi16(ab1, cd1),
           _mm256_unpackhi_epi16(ab1, cd1)}};
}

// Four taps of weights, ready for multiply_add, which is exact.
#if defined(__AVXVNNI__)
struct QuadWeights {
  Quad bytes;
  explicit QuadWeights(const Quad& q) : bytes(q) {}
};

TORCHQAT_INLINE void multiply_add(Quad& sums, const Quad& codes, const QuadWeights& w) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) sums.v[j] = dot<U8S8>(sums.v[j], codes.v[j], w.bytes.v[j]);
}
#else
struct QuadWeights {
  Quad even, odd;  // the bytes as 16-bit numbers; vpmaddubsw would saturate
  explicit QuadWeights(const Quad& q) {
    for (int j = 0; j < 4; ++j) {
      even.v[j] = _mm256_srai_epi16(_mm256_slli_epi16(q.v[j], 8), 8);
      odd.v[j] = _mm256_srai_epi16(q.v[j], 8);
    }
  }
};

TORCHQAT_INLINE void multiply_add(Quad& sums, const Quad& codes, const QuadWeights& w) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m256i even = _mm256_and_si256(codes.v[j], _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(codes.v[j], 8);
    sums.v[j] = _mm256_add_epi32(sums.v[j], _mm256_madd_epi16(even, w.even.v[j]));
    sums.v[j] = _mm256_add_epi32(sums.v[j], _mm256_madd_epi16(odd, w.odd.v[j]));
  }
}
#endif

// Back to channel order, and added to 32 sums.
TORCHQAT_INLINE void store_sums(const Quad& s, const int32_t* from, int32_t* to) {
  const __m256i ordered[4] = {_mm256_permute2x128_si256(s.v[0], s.v[1], 0x20), _mm256_permute2x128_si256(s.v[2], s.v[3], 0x20),
                              _mm256_permute2x128_si256(s.v[0], s.v[1], 0x31), _mm256_permute2x128_si256(s.v[2], s.v[3], 0x31)};
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m256i before = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 8 * j));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8 * j), _mm256_add_epi32(ordered[j], before));
  }
}

// Four taps of 32 channels, of which `columns` are real; tap below 0 or not below `taps`: zeros.
inline QuadWeights weights_of(const int8_t* weight, int64_t channels, int64_t columns, int64_t taps, int64_t t0, int64_t t1, int64_t t2,
                              int64_t t3) {
  const auto load = [&](int64_t tap) {
    alignas(32) int8_t some[kQuadChannels] = {};
    if (tap >= 0 && tap < taps) std::memcpy(some, weight + tap * channels, static_cast<size_t>(std::min(columns, kQuadChannels)));
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(some));
  };
  return QuadWeights(interleave4(load(t0), load(t1), load(t2), load(t3)));
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_no_lines.h"
#include "cpu/kernels/conv_depthwise_quads.h"

namespace torchqat::cpu::conv {
namespace {

struct QuadTable {
  alignas(32) unsigned char bytes[kMostQuads * sizeof(QuadWeights)];
  QuadWeights* begin() { return reinterpret_cast<QuadWeights*>(bytes); }
};

// sums[r][lane] = init + sum over taps of code * weight, for channels [channel, channel + columns). a: the first tap of row
// 0; weight: [taps][channels].
void depthwise(const Plan& plan, const uint8_t* a, const int8_t* weight, int64_t channel, int64_t columns, int64_t rows,
               const int32_t* init, int32_t* sums) {
  const int64_t channels = plan.weight.groups, taps = static_cast<int64_t>(plan.taps.size());
  QuadTable storage;
  QuadWeights* table = storage.begin();
  for (int64_t c = 0; c < columns; c += kQuadChannels) {
    const int8_t* w = weight + channel + c;
    depthwise_by_quads(plan, a + channel + c, rows, init + c, sums + c, table, [&](int64_t slot, int64_t t0, int64_t t1, int64_t t2, int64_t t3) {
      table[slot] = weights_of(w, channels, columns - c, taps, t0, t1, t2, t3);
    });
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv
