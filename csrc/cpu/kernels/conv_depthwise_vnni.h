// Depthwise convolution on VNNI, 64 channels at a time: four taps of a channel are interleaved into the four bytes of a
// lane. Pixels and weights are interleaved alike, so only the sums have to be put back in order. Included by ISA files.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/kernels/conv_codes_generic.h"
#include "cpu/kernels/conv_int8.h"
#include "numerics/scaled_sum.h"

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

// A transpose of the 128-bit lanes of four vectors: between channel order and the order of Quad's vectors.
inline __attribute__((always_inline)) void swap_order(const __m512i* from, __m512i* to) {
  const __m512i x0 = _mm512_shuffle_i32x4(from[0], from[1], 0x44), x1 = _mm512_shuffle_i32x4(from[2], from[3], 0x44);
  const __m512i x2 = _mm512_shuffle_i32x4(from[0], from[1], 0xee), x3 = _mm512_shuffle_i32x4(from[2], from[3], 0xee);
  to[0] = _mm512_shuffle_i32x4(x0, x1, 0x88);
  to[1] = _mm512_shuffle_i32x4(x0, x1, 0xdd);
  to[2] = _mm512_shuffle_i32x4(x2, x3, 0x88);
  to[3] = _mm512_shuffle_i32x4(x2, x3, 0xdd);
}

// A line of 3x3 outputs, [rows][out channels]. A vector holds 64 / Parts channels of Parts pixels, which lie a Parts-th of the
// line apart. The three rows of a pixel are interleaved once and serve the two or three outputs that see it; sums stay in
// registers until they are codes or floats.
template <int Parts, bool Codes, int Stride, typename Block>
void depthwise_parts(const Plan& plan, const Task& task, const uint8_t* a, const int8_t* weight, int64_t channel, int64_t columns,
                     int64_t rows, const int32_t* init, const Block& block, int64_t to) {
  constexpr int width = kPanel / Parts;
  const int64_t channels = plan.weight.groups, length = (rows + Parts - 1) / Parts;
  const __mmask64 real = columns == kPanel ? ~__mmask64{0} : (__mmask64{1} << columns) - 1;
  const auto repeated = [](__m512i x) __attribute__((always_inline)) {
    if constexpr (Parts == 2) return _mm512_broadcast_i64x4(_mm512_castsi512_si256(x));
    if constexpr (Parts == 4) return _mm512_broadcast_i32x4(_mm512_castsi512_si128(x));
    return x;
  };
  const auto weights_of = [&](int64_t tap) { return repeated(_mm512_maskz_loadu_epi8(real, weight + tap * channels + channel)); };
  // Constants of the panel's lanes, as the sums lie.
  const auto constants = [&](const void* from, __m512i* out) {
    __m512i natural[4];
    for (int j = 0; j < 4; ++j) natural[j] = _mm512_loadu_si512(static_cast<const int32_t*>(from) + 16 * j % width);
    swap_order(natural, out);
  };
  const __m512i none = _mm512_setzero_si512();
  Quad w[3], start;
  for (int t = 0; t < 3; ++t) w[t] = interleave4(weights_of(t), weights_of(3 + t), weights_of(6 + t), none);
  alignas(64) __m512i scale[4], bias[4], ratio[4], shift[4];
  constants(init, start.v);
  constants(block.scale, scale);
  constants(block.bias, bias);
  const CodeGrid grid(task.grid);
  const CodePacker pack(grid);
  const Shortcut& cut = block.cut;
  if constexpr (Codes) {
    constants(cut.ratio, ratio);
    constants(cut.shift, shift);
  }
  const __m512 limit = _mm512_set1_ps(cut.limit);
  const uint8_t* line[3] = {a + plan.taps[0] + channel, a + plan.taps[3] + channel, a + plan.taps[6] + channel};
  const int64_t apart = length * Stride * channels;
  const auto pixels = [&](const uint8_t* p) __attribute__((always_inline)) {
    if constexpr (Parts == 1) return _mm512_loadu_si512(p);
    if constexpr (Parts == 2) {
      const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
      return _mm512_inserti64x4(first, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + apart)), 1);
    }
    if constexpr (Parts == 4) {
      const auto quarter = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * apart)); };
      const __m512i two = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(0)), quarter(1), 1);
      return _mm512_inserti32x4(_mm512_inserti32x4(two, quarter(2), 2), quarter(3), 3);
    }
  };
  const auto column_at = [&](int64_t x) __attribute__((always_inline)) {
    const int64_t at = x * channels;
    return interleave4(pixels(line[0] + at), pixels(line[1] + at), pixels(line[2] + at), none);
  };
  const auto add = [](Quad& sums, const Quad& codes, const Quad& weights) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) asm("vpdpbusd %2, %1, %0" : "+v"(sums.v[j]) : "v"(codes.v[j]), "v"(weights.v[j]));
  };
  const __mmask64 part = width == 64 ? real : real & ((__mmask64{1} << (width % 64)) - 1);
  const auto values = [&](const Quad& sums, __m512* y) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      y[j] = numerics::scaled_sum(Vec(_mm512_cvtepi32_ps(sums.v[j])), Vec(_mm512_castsi512_ps(scale[j])), Vec(_mm512_castsi512_ps(bias[j]))).v;
    }
  };
  const auto finish = [&](const Quad& sums, int64_t r) __attribute__((always_inline)) {
    if constexpr (Codes) {
      const __m512i codes = pack.codes_of<false>(sums.v, reinterpret_cast<const float*>(ratio), reinterpret_cast<const float*>(shift), limit,
                                                 reinterpret_cast<const float*>(scale), reinterpret_cast<const float*>(bias));
      uint8_t* out = task.out_codes + to + r * channels;
      if constexpr (Parts == 1) {
        _mm512_mask_storeu_epi8(out, part, codes);
      } else {
        alignas(64) uint8_t staged[64];
        _mm512_store_si512(staged, codes);
        for (int p = 0; p < Parts && r + p * length < rows; ++p) {
          _mm512_mask_storeu_epi8(out + p * length * channels, part, _mm512_maskz_loadu_epi8(part, staged + p * width));
        }
      }
    } else {
      __m512 y[4];
      values(sums, y);
      __m512i natural[4], quads[4];
      for (int j = 0; j < 4; ++j) quads[j] = _mm512_castps_si512(y[j]);
      swap_order(quads, natural);
      for (int j = 0; j < 4; ++j) {
        const int p = 16 * j / width, c = 16 * j % width;
        if (r + p * length >= rows || c >= columns) continue;
        float* out = task.out + to + (r + p * length) * channels + c;
        _mm512_mask_storeu_ps(out, columns - c >= 16 ? static_cast<__mmask16>(~0) : static_cast<__mmask16>((1 << (columns - c)) - 1),
                              _mm512_castsi512_ps(natural[j]));
      }
    }
  };
  Quad q = column_at(0);
  if constexpr (Stride == 1) {
    Quad first = start, second = start;
    add(first, q, w[0]);
    q = column_at(1);
    add(first, q, w[1]);
    add(second, q, w[0]);
    for (int64_t r = 0; r < length; ++r) {
      q = column_at(r + 2);
      Quad third = start;
      add(first, q, w[2]);
      add(second, q, w[1]);
      add(third, q, w[0]);
      finish(first, r);
      first = second;
      second = third;
    }
  } else {
    for (int64_t r = 0; r < length; ++r) {
      Quad sums = start;
      add(sums, q, w[0]);
      q = column_at(2 * r + 1);
      add(sums, q, w[1]);
      q = column_at(2 * r + 2);
      add(sums, q, w[2]);
      finish(sums, r);
    }
  }
}

template <typename Block>
bool depthwise_line(const Plan& plan, const Task& task, const uint8_t* a, const int8_t* weight, int64_t channel, int64_t columns,
                    int64_t rows, const int32_t* init, const Block& block, int64_t to) {
  if (plan.taps.size() != 9 || plan.weight.kernel[2] != 3 || plan.dilation[2] != 1 || plan.stride[2] > 2) return false;
  if (task.out_codes != nullptr && block.cut.limit < 0) return false;
  const auto run = [&](auto parts, auto codes, auto stride) {
    depthwise_parts<parts.value, codes.value, stride.value>(plan, task, a, weight, channel, columns, rows, init, block, to);
  };
  const auto with_parts = [&](auto codes, auto stride) {
    // A short line is not worth splitting.
    if (columns <= 16 && rows >= 8) {
      run(std::integral_constant<int, 4>{}, codes, stride);
    } else if (columns <= 32 && rows >= 4) {
      run(std::integral_constant<int, 2>{}, codes, stride);
    } else {
      run(std::integral_constant<int, 1>{}, codes, stride);
    }
  };
  const auto with_stride = [&](auto codes) {
    plan.stride[2] == 1 ? with_parts(codes, std::integral_constant<int, 1>{}) : with_parts(codes, std::integral_constant<int, 2>{});
  };
  task.out_codes != nullptr ? with_stride(std::true_type{}) : with_stride(std::false_type{});
  return true;
}

}  // namespace
}  // namespace torchqat::cpu::conv
