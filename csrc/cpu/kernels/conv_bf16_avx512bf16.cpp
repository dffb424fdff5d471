// bfloat16 gradients of a convolution on AVX512_BF16: tiles of up to 24 vectors of sums.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "cpu/kernels/conv_bf16.h"

namespace torchqat::cpu::conv {
namespace {

void gemm_begin() {}
void gemm_end() {}

// R rows x V vectors of 16 columns, written out as in the integer tile: gcc 12 spills the accumulators of the intrinsic.
template <int R, int V>
void tile(const uint8_t* a, int64_t row_stride, const Run* runs, int run_count, const uint8_t* panel, float* sums) {
  __m512 acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = _mm512_setzero_ps();
  }
  for (int j = 0; j < run_count; ++j) {
    const uint8_t* values = a + runs[j].a;
    const uint8_t* w = panel + runs[j].w;
    for (int64_t g = runs[j].groups; g > 0; --g, values += 4, w += 4 * kPanel) {
      __m512i b[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) b[v] = _mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        int32_t word;
        std::memcpy(&word, values + r * row_stride, 4);
        const __m512i q = _mm512_set1_epi32(word);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) asm("vdpbf16ps %2, %1, %0" : "+v"(acc[r][v]) : "v"(q), "v"(b[v]));
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(sums + r * kPanel + 16 * v, acc[r][v]);
  }
}

using Tile = void (*)(const uint8_t*, int64_t, const Run*, int, const uint8_t*, float*);

template <int V, int... R>
void rows_of_tiles(std::integer_sequence<int, R...>, const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count,
                   const uint8_t* panel, float* sums) {
  static constexpr Tile tiles[] = {&tile<R + 1, V>...};
  const int64_t most = sizeof...(R), count = (rows + most - 1) / most;
  for (int64_t t = 0, r = 0; t < count; ++t) {
    const int64_t here = (rows - r) / (count - t);
    tiles[here - 1](a + r * row_stride, row_stride, runs, run_count, panel, sums + r * kPanel);
    r += here;
  }
}

void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const uint8_t* panel, int64_t columns,
          float* sums) {
  using std::make_integer_sequence;
  switch ((columns + 15) / 16) {
    case 1: rows_of_tiles<1>(make_integer_sequence<int, 12>{}, a, row_stride, rows, runs, run_count, panel, sums); break;
    case 2: rows_of_tiles<2>(make_integer_sequence<int, 12>{}, a, row_stride, rows, runs, run_count, panel, sums); break;
    case 3: rows_of_tiles<3>(make_integer_sequence<int, 8>{}, a, row_stride, rows, runs, run_count, panel, sums); break;
    default: rows_of_tiles<4>(make_integer_sequence<int, 6>{}, a, row_stride, rows, runs, run_count, panel, sums); break;
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_bf16_generic.h"

namespace torchqat::cpu::conv {
Bf16Kernels bf16_kernels_avx512bf16() { return bf16_kernels; }
}  // namespace torchqat::cpu::conv
