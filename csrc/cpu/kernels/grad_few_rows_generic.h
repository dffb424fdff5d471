// A weight's gradient from few rows, compiled once per instruction set: the rows' codes as floats stay in the first-level cache
// while the result passes, two lines of it at a time.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/grad_few_rows.h"
#include "cpu/kernels/grad_limbs_generic.h"

namespace torchqat::cpu {
namespace {

constexpr int64_t kStrip = 512;  // columns

// Where `lines` lines of the result and their masks begin. The loop's own copy: what it stores could be the arguments, for all
// the compiler knows.
template <typename T, int lines>
struct Lines {
  T* out[lines];
  const uint8_t* mask[lines];
  float factor;
  bool past_cache;

  Lines(const FewRowsGrad& g, int64_t line) : factor(g.factor) {
    for (int t = 0; t < lines; ++t) {
      out[t] = static_cast<T*>(g.out) + (line + t) * g.k;
      mask[t] = g.mask != nullptr ? g.mask + (line + t) * g.ld_mask : nullptr;
    }
    // Then every vector of a line is aligned.
    past_cache = g.source.n * g.k >= kStreamedSize && g.k % 64 == 0 && reinterpret_cast<uintptr_t>(g.out) % 64 == 0;
  }
};

// Sixteen columns of every line from c on, `count` of them stored; x: the first row's.
template <int rows, int lines, typename T, bool masked, bool past_cache>
TORCHQAT_INLINE void few_rows16(const Lines<T, lines>& to, const float* x, const Vec (&dy)[rows][lines], int64_t c, int64_t count) {
  constexpr int vectors = 16 / Vec::size;
  Vec sums[lines][vectors];
#pragma GCC unroll 16
  for (int l = 0; l < vectors; ++l) {
#pragma GCC unroll 2
    for (int t = 0; t < lines; ++t) sums[t][l] = Vec(0.0f);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Vec value = Vec::load(x + i * kStrip + l * Vec::size);
#pragma GCC unroll 2
      for (int t = 0; t < lines; ++t) sums[t][l] = lane_fma(dy[i][t], value, sums[t][l]);
    }
  }
  const Vec factor(to.factor);
#pragma GCC unroll 2
  for (int t = 0; t < lines; ++t) {
    uint16_t inside = 0xffff;
    if (masked) {
      if (count == 16) {
        std::memcpy(&inside, to.mask[t] + c / 8, 2);
      } else {
        std::memcpy(&inside, to.mask[t] + c / 8, static_cast<size_t>((count + 7) / 8));
      }
    }
    T buffer[16];
    T* y = count == 16 ? to.out[t] + c : buffer;
#pragma GCC unroll 16
    for (int l = 0; l < vectors; ++l) {
      Vec value = sums[t][l] * factor;
      if (masked) value = select(Vec::from_bits(static_cast<uint32_t>(inside) >> (l * Vec::size)), value, Vec(0.0f));
      if (past_cache) {
        value.stream(y + l * Vec::size);
      } else {
        value.store(y + l * Vec::size);
      }
    }
    if (y == buffer) std::memcpy(to.out[t] + c, buffer, static_cast<size_t>(count) * sizeof(T));
  }
}

// `lines` lines, columns [begin, end); x: the strip's rows, zeros beyond the last.
template <int rows, int lines, typename T, bool masked, bool past_cache>
TORCHQAT_INLINE void few_rows_strip(const Lines<T, lines> to, const float* x, const float (&values)[rows][2], int64_t begin,
                                    int64_t end) {
  Vec dy[rows][lines];
  for (int i = 0; i < rows; ++i) {
    for (int t = 0; t < lines; ++t) dy[i][t] = Vec(values[i][t]);
  }
  int64_t c = begin;
  for (; c + 16 <= end; c += 16) few_rows16<rows, lines, T, masked, past_cache>(to, x + (c - begin), dy, c, 16);
  if (c < end) few_rows16<rows, lines, T, masked, false>(to, x + (c - begin), dy, c, end - c);
}

template <int rows, int lines, typename T>
TORCHQAT_INLINE void few_rows_lines(const FewRowsGrad& g, int64_t line, const float* x, const float (&values)[rows][2],
                                    int64_t begin, int64_t end) {
  const Lines<T, lines> to(g, line);
  if (to.past_cache) {
    if (g.mask != nullptr) return few_rows_strip<rows, lines, T, true, true>(to, x, values, begin, end);
    return few_rows_strip<rows, lines, T, false, true>(to, x, values, begin, end);
  }
  if (g.mask != nullptr) return few_rows_strip<rows, lines, T, true, false>(to, x, values, begin, end);
  few_rows_strip<rows, lines, T, false, false>(to, x, values, begin, end);
}

template <typename T, typename G, int rows>
void few_rows_of(const FewRowsGrad& g, int64_t line_begin, int64_t line_end) {
  alignas(64) float x[rows * kStrip] = {};
  const GradSource& s = g.source;
  for (int64_t begin = 0; begin < g.k; begin += kStrip) {
    const int64_t end = std::min(g.k, begin + kStrip);
    for (int64_t i = 0; i < s.m; ++i) {
      const Vec zero_point(static_cast<float>(g.zero_point[i * g.zero_stride]));
      const uint8_t* codes = g.codes + i * g.ld_codes + begin;
      // Up to the padding's end, whose bytes belong to the row.
      for (int64_t j = 0; j < end - begin; j += Vec::size) (Vec::load(codes + j) - zero_point).store(x + i * kStrip + j);
    }
    float dy[rows][2] = {};
    const auto load = [&](int64_t line, int t) {
      for (int64_t i = 0; i < s.m; ++i) {
        alignas(64) float value[Vec::size];
        const G* from = static_cast<const G*>(s.grad) + i * s.n + line;
        G one[Vec::size] = {};
        one[0] = *from;
        Vec::load(one).store(value);
        dy[i][t] = s.row_factor != nullptr ? value[0] * s.row_factor[i] : value[0];
      }
    };
    int64_t line = line_begin;
    for (; line + 2 <= line_end; line += 2) {
      load(line, 0);
      load(line + 1, 1);
      few_rows_lines<rows, 2, T>(g, line, x, dy, begin, end);
    }
    if (line < line_end) {
      load(line, 0);
      few_rows_lines<rows, 1, T>(g, line, x, dy, begin, end);
    }
  }
}

TORCHQAT_INLINE void run_grad_few_rows(const FewRowsGrad& g, int64_t begin, int64_t end) {
  with_type(g.type, [&]<typename T>() {
    with_type(g.source.type, [&]<typename G>() {
      if (g.source.m <= 4) {
        few_rows_of<T, G, 4>(g, begin, end);
      } else {
        few_rows_of<T, G, 8>(g, begin, end);
      }
    });
  });
}

}  // namespace
}  // namespace torchqat::cpu
