// The inner kernel of a convolution on AVX-512: tiles of up to 24 vectors of sums, rows split evenly among the tiles of a strip, for
// products of codes or of bfloat16.
#pragma once
#include <utility>

#include "cpu/kernels/conv_plan.h"
#include "cpu/kernels/dot_avx512.h"

namespace torchqat::cpu::conv {
namespace {

void gemm_begin() {}
void gemm_end() {}

// R rows x V vectors of 16 columns, from init or from zero.
template <typename Op, int R, int V, typename Sum>
void tile(const uint8_t* a, int64_t row_stride, const Run* runs, int run_count, const uint8_t* panel, const Sum* init, Sum* sums) {
  __m512i acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if constexpr (std::is_same_v<Op, BF16>) {
        acc[r][v] = _mm512_setzero_si512();
      } else {
        acc[r][v] = _mm512_loadu_si512(init + 16 * v);
      }
    }
  }
  for (int j = 0; j < run_count; ++j) {
    const uint8_t* row = a + runs[j].a;
    const uint8_t* w = panel + runs[j].w;
    for (int64_t g = runs[j].groups; g > 0; --g, row += 4, w += 4 * kPanel) {
      __m512i b[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) b[v] = _mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const __m512i q = broadcast4(row + r * row_stride);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = dot<Op>(acc[r][v], q, b[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_storeu_si512(sums + r * kPanel + 16 * v, acc[r][v]);
  }
}

template <typename Op, int V, typename Sum, int... R>
void rows_of_tiles(std::integer_sequence<int, R...>, const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count,
                   const uint8_t* panel, const Sum* init, Sum* sums) {
  using Tile = void (*)(const uint8_t*, int64_t, const Run*, int, const uint8_t*, const Sum*, Sum*);
  static constexpr Tile tiles[] = {&tile<Op, R + 1, V, Sum>...};
  const int64_t most = sizeof...(R), count = (rows + most - 1) / most;
  for (int64_t t = 0, r = 0; t < count; ++t) {
    const int64_t here = (rows - r) / (count - t);
    tiles[here - 1](a + r * row_stride, row_stride, runs, run_count, panel, init, sums + r * kPanel);
    r += here;
  }
}

// sums [rows][64] of `columns` columns of a panel, by sixteens. init: [64], read for products of codes only.
template <typename Op, typename Sum>
void gemm_tiles(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const uint8_t* panel, int64_t columns,
                const Sum* init, Sum* sums) {
  const auto with = [&](auto vectors, auto most) {
    rows_of_tiles<Op, vectors.value>(std::make_integer_sequence<int, most.value>{}, a, row_stride, rows, runs, run_count, panel, init, sums);
  };
  using std::integral_constant;
  switch ((columns + 15) / 16) {
    case 1: with(integral_constant<int, 1>{}, integral_constant<int, 12>{}); break;
    case 2: with(integral_constant<int, 2>{}, integral_constant<int, 12>{}); break;
    case 3: with(integral_constant<int, 3>{}, integral_constant<int, 8>{}); break;
    default: with(integral_constant<int, 4>{}, integral_constant<int, 6>{}); break;
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv
