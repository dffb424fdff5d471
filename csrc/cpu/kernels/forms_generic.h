// The integer forms over Vec lanes; included by each ISA file.
#pragma once
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>

#include "cpu/kernels/forms.h"
#include "cpu/vec/vec.h"
#include "numerics/affine.h"
#include "numerics/average.h"
#include "numerics/quotient.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace torchqat::cpu::forms {
namespace {

using numerics::Vec;

template <typename T>
struct Reader {
  Vec scale, reciprocal, zero, low, high;
  explicit Reader(const Grid& g)
      : scale(g.scale), reciprocal(numerics::quotient_reciprocal(g.scale)), zero(g.zero_point), low(g.quant_min), high(g.quant_max) {}
  // q - z
  TORCHQAT_INLINE Vec centred(const T* p) const {
    if constexpr (std::is_same_v<T, float>) {
      return numerics::clamp_level(numerics::rounded_quotient(Vec::load(p), scale, reciprocal) + zero, low, high) - zero;
    } else {
      return Vec::load(p) - zero;
    }
  }
};

template <typename T>
struct Writer {
  Vec scale, reciprocal, zero, low, high;
  explicit Writer(const Grid& g)
      : scale(g.scale), reciprocal(numerics::quotient_reciprocal(g.scale)), zero(g.zero_point), low(g.quant_min), high(g.quant_max) {}
  TORCHQAT_INLINE void operator()(Vec y, T* p) const {
    if constexpr (std::is_same_v<T, float>) {
      y.store(p);
    } else {
      const Vec level = numerics::rounded_quotient(y, scale, reciprocal) + zero;
      numerics::storable_code(numerics::clamp_level(level, low, high), zero).store(p);
    }
  }
};

// Calls fn(i, p...) for vectors of n elements; the last, short one through buffers that hold zeros elsewhere.
template <typename Out, typename Fn, typename... In>
TORCHQAT_INLINE void for_each_vector(int64_t n, Out* out, Fn fn, const In*... in) {
  int64_t i = 0;
  for (; i + Vec::size <= n; i += Vec::size) fn(out + i, (in + i)...);
  if (i < n) {
    const size_t left = static_cast<size_t>(n - i);
    Out last[Vec::size];
    const auto padded = [&](auto* p, auto* buffer) {
      std::memset(buffer, 0, Vec::size * sizeof *p);
      std::memcpy(buffer, p + i, left * sizeof *p);
      return static_cast<decltype(p)>(buffer);
    };
    std::tuple<std::array<In, Vec::size>...> buffers;
    std::apply([&](auto&... buffer) { fn(last, padded(in, buffer.data())...); }, buffers);
    std::memcpy(out + i, last, left * sizeof(Out));
  }
}

template <typename A, typename B, typename Out>
void add_span(const Add& task, int64_t begin, int64_t end) {
  const Reader<A> a(task.a_grid);
  const Reader<B> b(task.b_grid);
  const Writer<Out> write(task.out_grid);
  const bool relu = task.relu;
  for_each_vector(
      end - begin, static_cast<Out*>(task.out) + begin,
      [&](Out* out, const A* p, const B* q) {
        const Vec y = a.centred(p) * a.scale + b.centred(q) * b.scale;
        write(relu ? numerics::lane_max(Vec(0.0f), y) : y, out);
      },
      static_cast<const A*>(task.a) + begin, static_cast<const B*>(task.b) + begin);
}

template <typename Fn>
void with_type(Element type, Fn fn) {
  switch (type) {
    case Element::float32: return fn(float{});
    case Element::u8: return fn(uint8_t{});
    case Element::s8: return fn(int8_t{});
  }
}

void add(const Add& task, int64_t begin, int64_t end) {
  with_type(task.a_type, [&](auto a) {
    with_type(task.b_type, [&](auto b) {
      with_type(task.out_type, [&](auto out) { add_span<decltype(a), decltype(b), decltype(out)>(task, begin, end); });
    });
  });
}

template <typename T, typename Out>
void average_window(const Average& task, const Window& w) {
  const Reader<T> read(task.grid);
  const Writer<Out> write(task.out_grid);
  const Vec factor(numerics::average_factor(task.grid.scale, task.count));
  const T* input = static_cast<const T*>(w.input);
  Out* out = static_cast<Out*>(w.out);
  // Several vectors at a time, so that a pixel's line is used while it is at hand.
  constexpr int64_t width = 8;
  int64_t c = 0;
  for (; c + width * Vec::size <= w.channels; c += width * Vec::size) {
    Vec sum[width];
    for (int64_t j = 0; j < width; ++j) sum[j] = Vec(0.0f);
    for (int64_t t = 0; t < w.taps; ++t) {
      const T* p = input + w.offsets[t] + c;
      for (int64_t j = 0; j < width; ++j) sum[j] = sum[j] + read.centred(p + j * Vec::size);
    }
    for (int64_t j = 0; j < width; ++j) write(numerics::average_value(sum[j], factor), out + c + j * Vec::size);
  }
  for (; c < w.channels; c += Vec::size) {
    const int64_t left = std::min<int64_t>(Vec::size, w.channels - c);
    Vec sum(0.0f);
    for (int64_t t = 0; t < w.taps; ++t) {
      T last[Vec::size] = {};
      std::memcpy(last, input + w.offsets[t] + c, static_cast<size_t>(left) * sizeof(T));
      sum = sum + read.centred(last);
    }
    Out last[Vec::size];
    write(numerics::average_value(sum, factor), last);
    std::memcpy(out + c, last, static_cast<size_t>(left) * sizeof(Out));
  }
}

void average(const Average& task, const Window& window) {
  with_type(task.type, [&](auto t) {
    with_type(task.out_type, [&](auto out) { average_window<decltype(t), decltype(out)>(task, window); });
  });
}

#if defined(__AVX512BW__)
constexpr int64_t kBytes = 64;
using Bytes = __m512i;
TORCHQAT_INLINE Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
TORCHQAT_INLINE void store_bytes(uint8_t* p, Bytes b) { _mm512_storeu_si512(p, b); }
TORCHQAT_INLINE Bytes max_bytes(Bytes a, Bytes b, bool is_signed) { return is_signed ? _mm512_max_epi8(a, b) : _mm512_max_epu8(a, b); }
#elif defined(__AVX2__)
constexpr int64_t kBytes = 32;
using Bytes = __m256i;
TORCHQAT_INLINE Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
TORCHQAT_INLINE void store_bytes(uint8_t* p, Bytes b) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b); }
TORCHQAT_INLINE Bytes max_bytes(Bytes a, Bytes b, bool is_signed) { return is_signed ? _mm256_max_epi8(a, b) : _mm256_max_epu8(a, b); }
#else
constexpr int64_t kBytes = 1;
using Bytes = uint8_t;
TORCHQAT_INLINE Bytes load_bytes(const uint8_t* p) { return *p; }
TORCHQAT_INLINE void store_bytes(uint8_t* p, Bytes b) { *p = b; }
TORCHQAT_INLINE Bytes max_bytes(Bytes a, Bytes b, bool is_signed) {
  const auto flip = static_cast<uint8_t>(is_signed ? 0x80 : 0);
  return (a ^ flip) > (b ^ flip) ? a : b;
}
#endif

void maximum(const Window& w, bool is_signed) {
  const uint8_t* input = static_cast<const uint8_t*>(w.input);
  uint8_t* out = static_cast<uint8_t*>(w.out);
  const auto of = [&](const auto& at) {
    Bytes most = at(w.offsets[0]);
    for (int64_t t = 1; t < w.taps; ++t) most = max_bytes(most, at(w.offsets[t]), is_signed);
    return most;
  };
  int64_t c = 0;
  for (; c + kBytes <= w.channels; c += kBytes) {
    store_bytes(out + c, of([&](int64_t offset) { return load_bytes(input + offset + c); }));
  }
  if (c < w.channels) {
    const size_t left = static_cast<size_t>(w.channels - c);
    uint8_t last[kBytes] = {};
    store_bytes(last, of([&](int64_t offset) {
                  uint8_t pixel[kBytes] = {};
                  std::memcpy(pixel, input + offset + c, left);
                  return load_bytes(pixel);
                }));
    std::memcpy(out + c, last, left);
  }
}

// Codes of floats as indices into the table; for a NaN the index is -1.
TORCHQAT_INLINE void indices_of(const Reader<float>& read, float offset, const float* p, int32_t* to) {
  const Vec level = read.centred(p) + Vec(offset);
  numerics::select(numerics::is_nan(level), Vec(-1.0f), level).store_s32(to);
}

// Entries of Vec::size indices; a NaN's is a NaN, or the code of 0.
template <typename Out>
TORCHQAT_INLINE void gather(const Out* table, float offset, const int32_t* index, int64_t count, Out* out) {
  for (int64_t j = 0; j < count; ++j) {
    if (index[j] >= 0) {
      out[j] = table[index[j]];
    } else if constexpr (std::is_same_v<Out, float>) {
      out[j] = std::numeric_limits<float>::quiet_NaN();
    } else {
      out[j] = table[static_cast<int>(offset)];
    }
  }
}

TORCHQAT_INLINE void gather_whole(const float* table, float offset, const int32_t* index, float* out) {
#if defined(__AVX512F__)
  const __m512i at = _mm512_loadu_si512(index);
  const __m512 nan = _mm512_set1_ps(std::numeric_limits<float>::quiet_NaN());
  _mm512_storeu_ps(out, _mm512_mask_i32gather_ps(nan, _mm512_cmpge_epi32_mask(at, _mm512_setzero_si512()), at, table, 4));
  static_cast<void>(offset);
#elif defined(__AVX2__)
  const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
  const __m256 nan = _mm256_set1_ps(std::numeric_limits<float>::quiet_NaN());
  const __m256 inside = _mm256_castsi256_ps(_mm256_cmpgt_epi32(at, _mm256_set1_epi32(-1)));
  _mm256_storeu_ps(out, _mm256_mask_i32gather_ps(nan, table, at, inside, 4));
  static_cast<void>(offset);
#else
  gather(table, offset, index, Vec::size, out);
#endif
}
template <typename Out>
TORCHQAT_INLINE void gather_whole(const Out* table, float offset, const int32_t* index, Out* out) {
  gather(table, offset, index, Vec::size, out);
}

template <typename T, typename Out>
void lookup_span(const Lookup& task, int64_t begin, int64_t end) {
  const Out* table = static_cast<const Out*>(task.table);
  Out* out = static_cast<Out*>(task.out);
  const T* input = static_cast<const T*>(task.input);
  const int first = static_cast<int>(task.grid.quant_min), last = static_cast<int>(task.grid.quant_max);
  if constexpr (std::is_same_v<T, float>) {
    const Reader<float> read(task.grid);
    const float offset = task.grid.zero_point - task.grid.quant_min;
    alignas(64) int32_t index[Vec::size];
    int64_t i = begin;
    for (; i + Vec::size <= end; i += Vec::size) {
      indices_of(read, offset, input + i, index);
      gather_whole(table, offset, index, out + i);
    }
    if (i < end) {
      float values[Vec::size] = {};
      std::memcpy(values, input + i, static_cast<size_t>(end - i) * sizeof(float));
      indices_of(read, offset, values, index);
      gather(table, offset, index, end - i, out + i);
    }
  } else {
    // By byte, with codes outside the grid taken as its ends.
    Out by_byte[256];
    for (int byte = 0; byte < 256; ++byte) {
      const int code = static_cast<T>(byte);
      by_byte[byte] = table[std::clamp(code, first, last) - first];
    }
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(input);
    int64_t i = begin;
#if defined(__AVX512VBMI__)
    if constexpr (sizeof(Out) == 1) {
      const __m512i t0 = _mm512_loadu_si512(by_byte), t1 = _mm512_loadu_si512(by_byte + 64);
      const __m512i t2 = _mm512_loadu_si512(by_byte + 128), t3 = _mm512_loadu_si512(by_byte + 192);
      for (; i + 64 <= end; i += 64) {
        const __m512i index = _mm512_loadu_si512(bytes + i);
        const __m512i lower = _mm512_permutex2var_epi8(t0, index, t1), upper = _mm512_permutex2var_epi8(t2, index, t3);
        _mm512_storeu_si512(out + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), lower, upper));
      }
    }
#endif
    for (; i < end; ++i) out[i] = by_byte[bytes[i]];
  }
}

void lookup(const Lookup& task, int64_t begin, int64_t end) {
  with_type(task.type, [&](auto t) {
    with_type(task.out_type, [&](auto out) { lookup_span<decltype(t), decltype(out)>(task, begin, end); });
  });
}

}  // namespace
}  // namespace torchqat::cpu::forms
