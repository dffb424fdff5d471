// Lines of a 3x3 depthwise convolution on VNNI, [columns][out channels]. A vector holds 64 / Parts channels of Parts pixels, which
// lie a Parts-th of the line apart. What a kernel sees of a column of pixels is interleaved once, for all outputs that see it and,
// where lines are neighbours, for two of them: four rows against the weights (w0, w1, w2, 0) and (0, w0, w1, w2). Sums stay in
// registers until they are codes or floats. Included by conv_depthwise_vnni.h.
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

// A transpose of the 128-bit lanes of four vectors: between channel order and the order of Quad's vectors.
inline __attribute__((always_inline)) void swap_order(const __m512i* from, __m512i* to) {
  const __m512i x0 = _mm512_shuffle_i32x4(from[0], from[1], 0x44), x1 = _mm512_shuffle_i32x4(from[2], from[3], 0x44);
  const __m512i x2 = _mm512_shuffle_i32x4(from[0], from[1], 0xee), x3 = _mm512_shuffle_i32x4(from[2], from[3], 0xee);
  to[0] = _mm512_shuffle_i32x4(x0, x1, 0x88);
  to[1] = _mm512_shuffle_i32x4(x0, x1, 0xdd);
  to[2] = _mm512_shuffle_i32x4(x2, x3, 0x88);
  to[3] = _mm512_shuffle_i32x4(x2, x3, 0xdd);
}

// The pixels of a sample as lines read them: padded planes, or the caller's own codes, whose border is made up on the way.
struct Pixels {
  const uint8_t* codes;
  Dims size, padding;
};

inline Pixels pixels_of(const Plan& plan, const Task& task) {
  if (task.plain != nullptr) return {task.plain, plan.in, plan.padding};
  return {task.codes, plan.padded, {0, 0, 0}};
}

enum class Result { floats, codes, full_u8_codes };  // the last: codes whose upper limit is 255, without a sign

template <int Parts, Result Kind, int Stride, typename Block>
struct Lines {
  static constexpr int width = kPanel / Parts;
  static constexpr bool to_codes = Kind != Result::floats;

  const Plan& plan;
  const Task& task;
  const Pixels in;
  int64_t channel, channels, columns, length;
  __mmask64 part;
  __m512i border;
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
    if constexpr (to_codes) return x;
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
  }

  void constants(const void* from, void* to) const {
    __m512i natural[4];
    for (int j = 0; j < 4; ++j) natural[j] = _mm512_loadu_si512(static_cast<const int32_t*>(from) + 16 * j % width);
    auto* out = static_cast<__m512i*>(to);
    if constexpr (to_codes) {
      swap_order(natural, out);
    } else {
      for (int j = 0; j < 4; ++j) out[j] = natural[j];
    }
  }

  Lines(const Plan& p, const Task& t, const int8_t* weight, const int32_t* init, const Block& b)
      : plan(p), task(t), in(pixels_of(p, t)), channel(b.channel), channels(p.weight.groups), columns(b.columns),
        length((p.out[2] + Parts - 1) / Parts), part(first_bytes(std::min<int64_t>(columns, width))),
        border(_mm512_set1_epi8(static_cast<char>(t.zero_point))), grid(t.grid), pack(grid) {
    const __mmask64 real = first_bytes(columns);
    const auto tap = [&](int64_t at) { return dealt(repeated(_mm512_maskz_loadu_epi8(real, weight + at * channels + channel))); };
    const __m512i none = _mm512_setzero_si512();
    for (int x = 0; x < 3; ++x) {
      weights[0][x] = interleave4(tap(x), tap(3 + x), tap(6 + x), none);
      weights[1][x] = interleave4(none, tap(x), tap(3 + x), tap(6 + x));
    }
    constants(init, start);
    constants(b.scale, scale);
    constants(b.bias, bias);
    if constexpr (to_codes) {
      constants(b.cut.ratio, codes.ratio);
      constants(b.cut.shift, codes.shift);
      codes.scale = scale;
      codes.bias = bias;
      // Without a shortcut every output is a near-tie.
      codes.window = _mm512_set1_epi16(static_cast<short>(b.cut.window < 0 ? 0xffff : b.cut.window));
    }
  }

  // A row of pixels. mask: of offsets from the first, all bits or, where all of the row is border, none.
  struct Row {
    const uint8_t* first;
    int64_t mask;
  };

  Row row_of(int64_t z, int64_t y) const {
    if (z < 0 || z >= in.size[0] || y < 0 || y >= in.size[1]) return {reinterpret_cast<const uint8_t*>(&border), 0};
    return {in.codes + (z * in.size[1] + y) * in.size[2] * channels + channel, -1};
  }

  // Pixels at p, p + apart, ...
  template <bool Whole>
  TORCHQAT_INLINE __m512i load(const uint8_t* p, int64_t apart) const {
    if constexpr (Parts == 1) return dealt(Whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(part, p));
    if constexpr (Parts == 2) {
      const auto half = [&](int64_t i) __attribute__((always_inline)) {
        return Whole ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i * apart))
                     : _mm256_maskz_loadu_epi8(static_cast<__mmask32>(part), p + i * apart);
      };
      return dealt(_mm512_inserti64x4(_mm512_castsi256_si512(half(0)), half(1), 1));
    }
    if constexpr (Parts == 4) {
      const auto quarter = [&](int64_t i) __attribute__((always_inline)) {
        return Whole ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * apart))
                     : _mm_maskz_loadu_epi8(static_cast<__mmask16>(part), p + i * apart);
      };
      const __m512i two = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(0)), quarter(1), 1);
      return dealt(_mm512_inserti32x4(_mm512_inserti32x4(two, quarter(2), 2), quarter(3), 3));
    }
  }

  // Column x of each part, of which some may see the border.
  __attribute__((noinline)) Quad edge(const Row (&rows)[4], int64_t x) const {
    if constexpr (Parts == 1) return {{border, border, border, border}};
    __m512i pixels[4];
    for (int r = 0; r < 4; ++r) {
      alignas(64) uint8_t staged[64];
      for (int p = 0; p < Parts; ++p) {
        const int64_t at = x + p * length * Stride;
        const bool inside = at >= 0 && at < in.size[2];
        _mm512_mask_storeu_epi8(staged + p * width, first_bytes(width),
                                inside ? _mm512_maskz_loadu_epi8(part, rows[r].first + (at * channels & rows[r].mask)) : border);
      }
      pixels[r] = dealt(_mm512_load_si512(staged));
    }
    return interleave4(pixels[0], pixels[1], pixels[2], pixels[3]);
  }

  static TORCHQAT_INLINE void add(Quad& sums, const Quad& column, const Quad& w) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) asm("vpdpbusd %2, %1, %0" : "+v"(sums.v[j]) : "v"(column.v[j]), "m"(w.v[j]));
  }

  // Output r of each part, that of the first at `out`.
  TORCHQAT_INLINE void store(__m512i bytes, int64_t r, uint8_t* out) const {
    if constexpr (Parts == 1) {
      _mm512_mask_storeu_epi8(out, part, bytes);
    } else if constexpr (Parts == 2) {
      _mm256_mask_storeu_epi8(out, static_cast<__mmask32>(part), _mm512_castsi512_si256(bytes));
      if (r + length < plan.out[2]) {
        _mm256_mask_storeu_epi8(out + length * channels, static_cast<__mmask32>(part), _mm512_extracti64x4_epi64(bytes, 1));
      }
    } else {
      const auto quarter = [&](int p, __m128i x) __attribute__((always_inline)) {
        if (r + p * length < plan.out[2]) _mm_mask_storeu_epi8(out + p * length * channels, static_cast<__mmask16>(part), x);
      };
      quarter(0, _mm512_castsi512_si128(bytes));
      quarter(1, _mm512_extracti32x4_epi32(bytes, 1));
      quarter(2, _mm512_extracti32x4_epi32(bytes, 2));
      quarter(3, _mm512_extracti32x4_epi32(bytes, 3));
    }
  }

  // Output r of each part of a line that begins at element `to`.
  TORCHQAT_INLINE void output(const Quad (&q)[3], int first, const Quad* w, int64_t r, int64_t to) const {
    Quad sums;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums.v[j] = start[j];
#pragma GCC unroll 3
    for (int x = 0; x < 3; ++x) add(sums, q[(first + x) % 3], w[x]);
    if constexpr (to_codes) {
      store(pack.template codes_of<Deal::quads, Kind == Result::full_u8_codes>(sums.v, codes), r, task.out_codes + to + r * channels);
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

  // Column x of each part, all of them inside.
  template <bool Two, bool Whole>
  TORCHQAT_INLINE Quad inner(const Row (&rows)[4], int64_t x) const {
    const int64_t at = x * channels, apart = length * Stride * channels;
    const auto pixels = [&](const Row& row) __attribute__((always_inline)) { return load<Whole>(row.first + (at & row.mask), apart & row.mask); };
    return interleave4(pixels(rows[0]), pixels(rows[1]), pixels(rows[2]), Two ? pixels(rows[3]) : _mm512_setzero_si512());
  }

  // Output r of each part of one line or two, from columns that lie anywhere.
  template <bool Two, bool Whole>
  __attribute__((noinline)) void anywhere(const Row (&rows)[4], int64_t r, int64_t to) const {
    Quad q[3];
    for (int i = 0; i < 3; ++i) {
      const int64_t x = r * Stride + i - in.padding[2];
      q[i] = x >= 0 && x + (Parts - 1) * length * Stride < in.size[2] ? inner<Two, Whole>(rows, x) : edge(rows, x);
    }
    output(q, 0, weights[0], r, to);
    if constexpr (Two) output(q, 0, weights[1], r, to + plan.out[2] * channels);
  }

  // Output line y of slice z and, if Two, the one below it.
  template <bool Two, bool Whole>
  void run(int64_t z, int64_t y) const {
    const int64_t from_z = z * plan.stride[0] - in.padding[0], from_y = y * plan.stride[1] - in.padding[1], below = plan.dilation[1];
    const Row rows[4] = {row_of(from_z, from_y), row_of(from_z, from_y + below), row_of(from_z, from_y + 2 * below), row_of(from_z, Two ? from_y + 3 : -1)};
    const int64_t left = in.padding[2], next = plan.out[2] * channels, to = (z * plan.out[1] + y) * next + channel;
    // Outputs [first, last) see no border.
    const int64_t room = in.size[2] - (Parts - 1) * length * Stride + left - 3;
    const int64_t first = std::min(length, (left + Stride - 1) / Stride), last = room < 0 ? first : std::clamp(room / Stride + 1, first, length);
    for (int64_t r = 0; r < first; ++r) anywhere<Two, Whole>(rows, r, to);
    for (int64_t r = last; r < length; ++r) anywhere<Two, Whole>(rows, r, to);
    if (first == last) return;
    Quad q[3];
    const auto column = [&](int64_t x) __attribute__((always_inline)) { return inner<Two, Whole>(rows, x - left); };
    const auto outputs = [&](auto turn, int64_t r) __attribute__((always_inline)) {
      // Constants are read from memory each time.
      asm volatile("" : : : "memory");
      output(q, turn.value, weights[0], r, to);
      if constexpr (Two) output(q, turn.value, weights[1], r, to + next);
    };
    using std::integral_constant;
    int64_t r = first;
    q[0] = column(r * Stride);
    if constexpr (Stride == 1) {
      q[1] = column(r + 1);
      for (; r + 3 <= last; r += 3) {
        q[2] = column(r + 2);
        outputs(integral_constant<int, 0>{}, r);
        q[0] = column(r + 3);
        outputs(integral_constant<int, 1>{}, r + 1);
        q[1] = column(r + 4);
        outputs(integral_constant<int, 2>{}, r + 2);
      }
      if (r < last) {
        q[2] = column(r + 2);
        outputs(integral_constant<int, 0>{}, r);
      }
      if (r + 1 < last) {
        q[0] = column(r + 3);
        outputs(integral_constant<int, 1>{}, r + 1);
      }
    } else {
      for (; r < last; ++r) {
        q[1] = column(2 * r + 1);
        q[2] = column(2 * r + 2);
        outputs(integral_constant<int, 0>{}, r);
        q[0] = q[2];
      }
    }
  }

  void lines(int64_t z, int64_t y, bool two) const {
    const bool whole = columns >= width;
    if (two) {
      whole ? run<true, true>(z, y) : run<true, false>(z, y);
    } else {
      whole ? run<false, true>(z, y) : run<false, false>(z, y);
    }
  }
};

template <int Parts, Result Kind, int Stride, typename Block>
void lines_of(const Plan& plan, const Task& task, const int8_t* weight, int64_t begin, int64_t end, const int32_t* init, const Block& block) {
  const Lines<Parts, Kind, Stride, Block> lines(plan, task, weight, init, block);
  const bool neighbours = plan.stride[1] == 1 && plan.dilation[1] == 1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t z = unit / plan.lines_per_slice, y = 2 * (unit % plan.lines_per_slice);
    const bool last = y + 1 == plan.out[1];
    lines.lines(z, y, neighbours && !last);
    if (!neighbours && !last) lines.lines(z, y + 1, false);
  }
}

bool reads_plain_codes(const Plan& plan) {
  return plan.weight.depthwise() && plan.weight.taps() == 9 && plan.weight.kernel[2] == 3 && plan.weight.kernel[1] == 3 && plan.dilation[2] == 1 &&
         plan.stride[2] <= 2;
}

// Units [begin, end) of two output lines of the block's channels; false if there is no such form for this kernel.
template <typename Block>
bool depthwise_lines(const Plan& plan, const Task& task, const int8_t* weight, int64_t begin, int64_t end, const int32_t* init, const Block& block) {
  if (!reads_plain_codes(plan) || !task.channels_last || task.low_codes != nullptr) return false;
  const bool codes = task.out_codes != nullptr;
  if (codes && block.cut.window < 0 && task.plain == nullptr) return false;
  const auto run = [&](auto parts, auto kind, auto stride) {
    lines_of<parts.value, kind.value, stride.value>(plan, task, weight, begin, end, init, block);
  };
  const auto with_parts = [&](auto kind, auto stride) {
    // A short line is not worth splitting.
    if (block.columns <= 16 && plan.out[2] >= 8) {
      run(std::integral_constant<int, 4>{}, kind, stride);
    } else if (block.columns <= 32 && plan.out[2] >= 4) {
      run(std::integral_constant<int, 2>{}, kind, stride);
    } else {
      run(std::integral_constant<int, 1>{}, kind, stride);
    }
  };
  const auto with_stride = [&](auto kind) {
    plan.stride[2] == 1 ? with_parts(kind, std::integral_constant<int, 1>{}) : with_parts(kind, std::integral_constant<int, 2>{});
  };
  if (!codes) {
    with_stride(std::integral_constant<Result, Result::floats>{});
  } else if (task.grid.quant_max == 255) {
    with_stride(std::integral_constant<Result, Result::full_u8_codes>{});
  } else {
    with_stride(std::integral_constant<Result, Result::codes>{});
  }
  return true;
}

}  // namespace
}  // namespace torchqat::cpu::conv
