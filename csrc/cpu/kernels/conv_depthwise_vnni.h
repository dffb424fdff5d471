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

constexpr int64_t kMostQuads = 64;

// sums[r][lane] = init + sum over taps of code * weight, for channels [channel, channel + columns). a: the first tap of row
// 0; weight: [taps][channels].
void depthwise(const Plan& plan, const uint8_t* a, const int8_t* weight, int64_t channel, int64_t columns, int64_t rows,
               const int32_t* init, int32_t* sums) {
  const int64_t channels = plan.weight.groups, taps = static_cast<int64_t>(plan.taps.size());
  const int64_t* at = plan.taps.data();
  const __mmask64 real = columns == kPanel ? ~__mmask64{0} : (__mmask64{1} << columns) - 1;
  const auto weights_of = [&](int64_t tap) {
    return tap >= 0 && tap < taps ? _mm512_maskz_loadu_epi8(real, weight + tap * channels + channel) : _mm512_setzero_si512();
  };
  const auto codes_at = [&](const uint8_t* p) { return _mm512_loadu_si512(p); };
  alignas(64) __m512i table[kMostQuads][4];
  const auto fill = [&](int64_t slot, int64_t t0, int64_t t1, int64_t t2, int64_t t3) {
    const Quad q = interleave4(weights_of(t0), weights_of(t1), weights_of(t2), weights_of(t3));
    for (int j = 0; j < 4; ++j) table[slot][j] = q.v[j];
  };
  const Quad zero{{_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()}};
  a += channel;
  const int64_t kernel_rows = taps / 3;
  if (plan.weight.kernel[2] == 3 && plan.dilation[2] == 1 && plan.stride[2] == 1 && 2 * kernel_rows <= kMostQuads) {
    // Four neighbouring pixels serve two outputs: against (w0, w1, w2, 0) and (0, w0, w1, w2).
    for (int64_t k = 0; k < kernel_rows; ++k) {
      fill(2 * k, 3 * k, 3 * k + 1, 3 * k + 2, -1);
      fill(2 * k + 1, -1, 3 * k, 3 * k + 1, 3 * k + 2);
    }
    for (int64_t r = 0; r < rows; r += 2) {
      Quad left = zero, right = zero;
      for (int64_t k = 0; k < kernel_rows; ++k) {
        const uint8_t* p = a + r * channels + at[3 * k];
        const Quad q = interleave4(codes_at(p), codes_at(p + channels), codes_at(p + 2 * channels), codes_at(p + 3 * channels));
        multiply_add(left, q, table[2 * k]);
        multiply_add(right, q, table[2 * k + 1]);
      }
      store_sums(left, init, sums + r * kPanel);
      store_sums(right, init, sums + (r + 1) * kPanel);  // sums have room for one row more
    }
    return;
  }
  // Taps in fours; a large kernel takes several rounds over the rows.
  for (int64_t first = 0; first < taps; first += 4 * kMostQuads) {
    const int64_t quads = std::min(kMostQuads, (taps - first + 3) / 4);
    for (int64_t q = 0; q < quads; ++q) {
      const int64_t t = first + 4 * q;
      fill(q, t, t + 1, t + 2, t + 3);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* p = a + r * plan.row_stride;
      Quad total = zero;
      for (int64_t q = 0; q < quads; ++q) {
        const auto tap = [&](int64_t j) { return codes_at(p + at[std::min(first + 4 * q + j, taps - 1)]); };
        multiply_add(total, interleave4(tap(0), tap(1), tap(2), tap(3)), table[q]);
      }
      store_sums(total, first == 0 ? init : sums + r * kPanel, sums + r * kPanel);
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_lines.h"
