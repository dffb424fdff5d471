// Depthwise convolution on VNNI, 64 channels at a time: four taps of a channel are interleaved into the four bytes of a
// lane. Pixels and weights are interleaved alike, so only the sums have to be put back in order. Included by ISA files.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/kernels/conv_codes_generic.h"
#include "cpu/kernels/conv_int8.h"
#include "cpu/kernels/conv_walk.h"
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

// Lines of 3x3 outputs, [columns][out channels]. A vector holds 64 / Parts channels of Parts pixels, which lie a Parts-th of the
// line apart. What a kernel sees of a column of pixels is interleaved once, for all outputs that see it and, with stride 1, for two
// lines at a time: four rows against the weights (w0, w1, w2, 0) and (0, w0, w1, w2). Sums stay in registers until they are
// codes or floats.
template <int Parts, bool Codes, int Stride, typename Block>
struct Lines {
  static constexpr int width = kPanel / Parts;
  const Plan& plan;
  const Task& task;
  int64_t channels, columns, length;
  __mmask64 real, part;
  // Both lines' weights, the sums' start and the epilogue's constants, as the sums lie. In memory: there are no registers for them.
  alignas(64) Quad weights[2][3];
  alignas(64) __m512i start[4];
  alignas(64) __m512 scale[4], bias[4];
  CodePacker::Constants codes;
  const CodeGrid grid;
  const CodePacker pack;

  static __m512i repeated(__m512i x) {
    if constexpr (Parts == 2) return _mm512_broadcast_i64x4(_mm512_castsi512_si256(x));
    if constexpr (Parts == 4) return _mm512_broadcast_i32x4(_mm512_castsi512_si128(x));
    return x;
  }

  // Floats are stored in channel order, for which every fourth double word is brought together first; codes are put in order
  // when they are bytes.
  static TORCHQAT_INLINE __m512i dealt(__m512i x) {
    if constexpr (Codes) return x;
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
  }

  void constants(const void* from, void* to) const {
    __m512i natural[4];
    for (int j = 0; j < 4; ++j) natural[j] = _mm512_loadu_si512(static_cast<const int32_t*>(from) + 16 * j % width);
    auto* out = static_cast<__m512i*>(to);
    if constexpr (Codes) {
      swap_order(natural, out);
    } else {
      for (int j = 0; j < 4; ++j) out[j] = natural[j];
    }
  }

  Lines(const Plan& p, const Task& t, const int8_t* weight, int64_t channel, int64_t columns_, const int32_t* init, const Block& b)
      : plan(p), task(t), channels(p.weight.groups), columns(columns_), length((p.out[2] + Parts - 1) / Parts),
        real(first_bytes(columns)), part(real & first_bytes(width)), grid(t.grid), pack(grid) {
    const auto tap = [&](int64_t at) { return dealt(repeated(_mm512_maskz_loadu_epi8(real, weight + at * channels + channel))); };
    const __m512i none = _mm512_setzero_si512();
    for (int x = 0; x < 3; ++x) {
      weights[0][x] = interleave4(tap(x), tap(3 + x), tap(6 + x), none);
      weights[1][x] = interleave4(none, tap(x), tap(3 + x), tap(6 + x));
    }
    constants(init, start);
    constants(b.scale, scale);
    constants(b.bias, bias);
    if constexpr (Codes) {
      constants(b.cut.ratio, codes.ratio);
      constants(b.cut.shift, codes.shift);
      codes.scale = scale;
      codes.bias = bias;
      codes.window = _mm512_set1_epi16(static_cast<short>(b.cut.window));
    }
  }

  TORCHQAT_INLINE __m512i pixels(const uint8_t* p) const {
    const int64_t apart = length * Stride * channels;
    if constexpr (Parts == 1) return dealt(_mm512_loadu_si512(p));
    if constexpr (Parts == 2) {
      const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
      return dealt(_mm512_inserti64x4(first, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + apart)), 1));
    }
    if constexpr (Parts == 4) {
      const auto quarter = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * apart)); };
      const __m512i two = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(0)), quarter(1), 1);
      return dealt(_mm512_inserti32x4(_mm512_inserti32x4(two, quarter(2), 2), quarter(3), 3));
    }
  }

  static TORCHQAT_INLINE void add(Quad& sums, const Quad& column, const Quad& w) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) asm("vpdpbusd %2, %1, %0" : "+v"(sums.v[j]) : "v"(column.v[j]), "m"(w.v[j]));
  }

  // Output r of each part of a line that begins at element `to`.
  TORCHQAT_INLINE void output(const Quad (&q)[3], int first, const Quad* w, int64_t r, int64_t to) const {
    Quad sums;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums.v[j] = start[j];
#pragma GCC unroll 3
    for (int x = 0; x < 3; ++x) add(sums, q[(first + x) % 3], w[x]);
    if constexpr (Codes) {
      const __m512i bytes = pack.codes_of<Deal::quads>(sums.v, codes);
      uint8_t* out = task.out_codes + to + r * channels;
      if constexpr (Parts == 1) {
        _mm512_mask_storeu_epi8(out, part, bytes);
      } else if constexpr (Parts == 2) {
        _mm256_mask_storeu_epi8(out, static_cast<__mmask32>(part), _mm512_castsi512_si256(bytes));
        if (r + length < plan.out[2]) {
          _mm256_mask_storeu_epi8(out + length * channels, static_cast<__mmask32>(part), _mm512_extracti64x4_epi64(bytes, 1));
        }
      } else {
        const auto store = [&](int p, __m128i x) __attribute__((always_inline)) {
          if (r + p * length < plan.out[2]) _mm_mask_storeu_epi8(out + p * length * channels, static_cast<__mmask16>(part), x);
        };
        store(0, _mm512_castsi512_si128(bytes));
        store(1, _mm512_extracti32x4_epi32(bytes, 1));
        store(2, _mm512_extracti32x4_epi32(bytes, 2));
        store(3, _mm512_extracti32x4_epi32(bytes, 3));
      }
    } else {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m512 y = numerics::scaled_sum(Vec(_mm512_cvtepi32_ps(sums.v[j])), Vec(scale[j]), Vec(bias[j])).v;
        const int p = 16 * j / width, c = 16 * j % width;
        if (r + p * length >= plan.out[2] || c >= columns) continue;
        float* out = task.out + to + (r + p * length) * channels + c;
        if (columns - c >= 16) {
          _mm512_storeu_ps(out, y);
        } else {
          _mm512_mask_storeu_ps(out, static_cast<__mmask16>((1 << (columns - c)) - 1), y);
        }
      }
    }
  }

  // `a`: the first tap of a line's first output; rows `below` bytes apart. The first output goes to element `to`.
  template <bool Two>
  void run(const uint8_t* a, int64_t below, int64_t to) const {
    const auto column_at = [&](int64_t x) __attribute__((always_inline)) {
      const uint8_t* p = a + x * channels;
      return interleave4(pixels(p), pixels(p + below), pixels(p + 2 * below), Two ? pixels(p + 3 * below) : _mm512_setzero_si512());
    };
    const int64_t next = plan.out[2] * channels;
    Quad q[3];
    const auto outputs = [&](auto first, int64_t r) __attribute__((always_inline)) {
      // Constants are read from memory each time.
      asm volatile("" : : : "memory");
      output(q, first.value, weights[0], r, to);
      if constexpr (Two) output(q, first.value, weights[1], r, to + next);
    };
    using std::integral_constant;
    q[0] = column_at(0);
    int64_t r = 0;
    if constexpr (Stride == 1) {
      q[1] = column_at(1);
      for (; r + 3 <= length; r += 3) {
        q[2] = column_at(r + 2);
        outputs(integral_constant<int, 0>{}, r);
        q[0] = column_at(r + 3);
        outputs(integral_constant<int, 1>{}, r + 1);
        q[1] = column_at(r + 4);
        outputs(integral_constant<int, 2>{}, r + 2);
      }
      if (r < length) {
        q[2] = column_at(r + 2);
        outputs(integral_constant<int, 0>{}, r);
      }
      if (r + 1 < length) {
        q[0] = column_at(r + 3);
        outputs(integral_constant<int, 1>{}, r + 1);
      }
    } else {
      for (; r < length; ++r) {
        q[1] = column_at(2 * r + 1);
        q[2] = column_at(2 * r + 2);
        outputs(integral_constant<int, 0>{}, r);
        q[0] = q[2];
      }
    }
  }
};

template <int Parts, bool Codes, int Stride, typename Block>
void lines_of(const Plan& plan, const Task& task, const uint8_t* codes, const int8_t* weight, int64_t channel, int64_t columns,
              int64_t begin, int64_t end, const int32_t* init, const Block& block) {
  const Lines<Parts, Codes, Stride, Block> lines(plan, task, weight, channel, columns, init, block);
  const int64_t below = plan.taps[3], height = plan.out[1];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t z = unit / plan.lines_per_slice, y = 2 * (unit % plan.lines_per_slice);
    const uint8_t* a = codes + first_tap(plan, z, y, 0) + channel;
    const int64_t to = (z * height + y) * plan.out[2] * plan.weight.groups + channel;
    if (y + 1 == height) {
      lines.template run<false>(a, below, to);
    } else if (Stride == 1 && plan.stride[1] == 1 && plan.dilation[1] == 1) {
      lines.template run<true>(a, below, to);
    } else {
      lines.template run<false>(a, below, to);
      lines.template run<false>(codes + first_tap(plan, z, y + 1, 0) + channel, below, to + plan.out[2] * plan.weight.groups);
    }
  }
}

// Units [begin, end) of two output lines, of channels [channel, channel + columns); false if there is no such form for this
// kernel.
template <typename Block>
bool depthwise_lines(const Plan& plan, const Task& task, const uint8_t* codes, const int8_t* weight, int64_t channel, int64_t columns,
                     int64_t begin, int64_t end, const int32_t* init, const Block& block) {
  if (plan.taps.size() != 9 || plan.weight.kernel[2] != 3 || plan.weight.kernel[1] != 3 || plan.dilation[2] != 1 || plan.stride[2] > 2) {
    return false;
  }
  if (!task.channels_last || task.low_codes != nullptr || (task.out_codes != nullptr && block.cut.window < 0)) return false;
  const auto run = [&](auto parts, auto to_codes, auto stride) {
    lines_of<parts.value, to_codes.value, stride.value>(plan, task, codes, weight, channel, columns, begin, end, init, block);
  };
  const auto with_parts = [&](auto to_codes, auto stride) {
    // A short line is not worth splitting.
    if (columns <= 16 && plan.out[2] >= 8) {
      run(std::integral_constant<int, 4>{}, to_codes, stride);
    } else if (columns <= 32 && plan.out[2] >= 4) {
      run(std::integral_constant<int, 2>{}, to_codes, stride);
    } else {
      run(std::integral_constant<int, 1>{}, to_codes, stride);
    }
  };
  const auto with_stride = [&](auto to_codes) {
    plan.stride[2] == 1 ? with_parts(to_codes, std::integral_constant<int, 1>{}) : with_parts(to_codes, std::integral_constant<int, 2>{});
  };
  task.out_codes != nullptr ? with_stride(std::true_type{}) : with_stride(std::false_type{});
  return true;
}

}  // namespace
}  // namespace torchqat::cpu::conv
