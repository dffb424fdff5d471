// Depthwise convolution on VNNI, 64 channels at a time: four taps of a channel are interleaved into the four bytes of a
// lane. Pixels and weights are interleaved alike, so only the sums have to be put back in order. Included by ISA files.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "cpu/kernels/conv_int8.h"

namespace torchqat::cpu::conv {
namespace {

// Lane L, double word i of vector j belongs to channel 16 * L + 4 * j + i.
struct Quad {
  __m512i v[4];
};

inline __attribute__((always_inline)) Quad zero_quad() {
  const __m512i none = _mm512_setzero_si512();
  return {{none, none, none, none}};
}
inline __attribute__((always_inline)) __m512i load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }

inline __attribute__((always_inline)) Quad interleave4(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
  const __m512i cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
  return {{_mm512_unpacklo_epi16(ab0, cd0), _mm512_unpackhi_epi16(ab0, cd0), _mm512_unpacklo_epi16(ab1, cd1),
           _mm512_unpackhi_epi16(ab1, cd1)}};
}

inline __attribute__((always_inline)) void multiply_add(Quad& sums, const Quad& codes, const __m512i* weights) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i w = _mm512_load_si512(weights + j);
    asm("vpdpbusd %2, %1, %0" : "+v"(sums.v[j]) : "v"(codes.v[j]), "v"(w));
  }
}

// Back to channel order: a transpose of the 128-bit lanes.
inline __attribute__((always_inline)) void store_sums(const Quad& s, const int32_t* init, int32_t* to) {
  const __m512i x0 = _mm512_shuffle_i32x4(s.v[0], s.v[1], 0x44), x1 = _mm512_shuffle_i32x4(s.v[2], s.v[3], 0x44);
  const __m512i x2 = _mm512_shuffle_i32x4(s.v[0], s.v[1], 0xee), x3 = _mm512_shuffle_i32x4(s.v[2], s.v[3], 0xee);
  const __m512i y[4] = {_mm512_shuffle_i32x4(x0, x1, 0x88), _mm512_shuffle_i32x4(x0, x1, 0xdd), _mm512_shuffle_i32x4(x2, x3, 0x88),
                        _mm512_shuffle_i32x4(x2, x3, 0xdd)};
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) _mm512_storeu_si512(to + 16 * j, _mm512_add_epi32(y[j], _mm512_loadu_si512(init + 16 * j)));
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_quads.h"

namespace torchqat::cpu::conv {
namespace {

// sums[r][lane] = init + sum over taps of code * weight, for channels [channel, channel + columns). a: the first tap of row
// 0; weight: [taps][channels].
void depthwise(const Plan& plan, const uint8_t* a, const int8_t* weight, int64_t channel, int64_t columns, int64_t rows,
               const int32_t* init, int32_t* sums) {
  const int64_t channels = plan.weight.groups, taps = static_cast<int64_t>(plan.taps.size());
  const __mmask64 real = columns == kPanel ? ~__mmask64{0} : (__mmask64{1} << columns) - 1;
  const auto weights_of = [&](int64_t tap) {
    return tap >= 0 && tap < taps ? _mm512_maskz_loadu_epi8(real, weight + tap * channels + channel) : _mm512_setzero_si512();
  };
  alignas(64) __m512i table[kMostQuads][4];
  depthwise_by_quads(plan, a + channel, rows, init, sums, table, [&](int64_t slot, int64_t t0, int64_t t1, int64_t t2, int64_t t3) {
    const Quad q = interleave4(weights_of(t0), weights_of(t1), weights_of(t2), weights_of(t3));
    for (int j = 0; j < 4; ++j) table[slot][j] = q.v[j];
  });
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_lines.h"
