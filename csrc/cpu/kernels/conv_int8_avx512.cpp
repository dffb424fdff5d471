// Convolution on AVX-512 VNNI: tiles of up to 24 vectors of sums, rows split evenly among the tiles of a strip.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "cpu/kernels/conv_int8.h"

namespace torchqat::cpu::conv {
namespace {

void gemm_begin() {}
void gemm_end() {}

// R rows x V vectors of 16 columns. The instruction is written out because gcc 12 spills the accumulators of the intrinsic.
template <int R, int V>
void tile(const uint8_t* a, int64_t row_stride, const Run* runs, int run_count, const int8_t* panel, const int32_t* init,
          int32_t* sums) {
  __m512i acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = _mm512_loadu_si512(init + 16 * v);
  }
  for (int j = 0; j < run_count; ++j) {
    const uint8_t* codes = a + runs[j].a;
    const int8_t* w = panel + runs[j].w;
    for (int64_t g = runs[j].groups; g > 0; --g, codes += 4, w += 4 * kPanel) {
      __m512i b[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) b[v] = _mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        int32_t word;
        std::memcpy(&word, codes + r * row_stride, 4);
        const __m512i q = _mm512_set1_epi32(word);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) asm("vpdpbusd %2, %1, %0" : "+v"(acc[r][v]) : "v"(q), "v"(b[v]));
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_storeu_si512(sums + r * kPanel + 16 * v, acc[r][v]);
  }
}

using Tile = void (*)(const uint8_t*, int64_t, const Run*, int, const int8_t*, const int32_t*, int32_t*);

template <int V, int... R>
void rows_of_tiles(std::integer_sequence<int, R...>, const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs,
                   int run_count, const int8_t* panel, const int32_t* init, int32_t* sums) {
  static constexpr Tile tiles[] = {&tile<R + 1, V>...};
  const int64_t most = sizeof...(R), count = (rows + most - 1) / most;
  for (int64_t t = 0, r = 0; t < count; ++t) {
    const int64_t here = (rows - r) / (count - t);
    tiles[here - 1](a + r * row_stride, row_stride, runs, run_count, panel, init, sums + r * kPanel);
    r += here;
  }
}

void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const int8_t* panel,
          int64_t columns, const int32_t* init, int32_t* sums) {
  const auto with = [&](auto vectors, auto most) {
    rows_of_tiles<vectors.value>(std::make_integer_sequence<int, most.value>{}, a, row_stride, rows, runs, run_count, panel, init,
                                 sums);
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

#include "cpu/kernels/conv_depthwise_vnni.h"
#include "cpu/kernels/conv_grad_generic.h"

namespace torchqat::cpu::conv {
GradKernels grad_kernels_avx512() { return grad_kernels; }
Kernels kernels_avx512() { return {1, &quantize_masked, &mask_values, &pad_rows, &strips}; }
}  // namespace torchqat::cpu::conv
