// Convolution on AVX2: exact products by signed_products_avx2.h where they can be had so, otherwise of 16-bit values (vpmaddwd;
// vpmaddubsw would saturate).
#include <immintrin.h>

#include <cstring>

#include "cpu/kernels/conv_int8.h"
#include "cpu/kernels/signed_products_avx2.h"

namespace torchqat::cpu::conv {
namespace {

void gemm_begin() {}
void gemm_end() {}

// R rows x 16 columns. An accumulator holds four columns as pairs of partial sums.
template <int R>
void tile(const uint8_t* a, int64_t row_stride, const Run* runs, int run_count, const int8_t* panel, const int32_t* init,
          int32_t* sums) {
  __m256i acc[R][4];
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) acc[r][v] = _mm256_setzero_si256();
  }
  for (int j = 0; j < run_count; ++j) {
    const uint8_t* codes = a + runs[j].a;
    const int8_t* w = panel + runs[j].w;
    for (int64_t g = 0; g < runs[j].groups; ++g, codes += 4, w += 4 * kPanel) {
      __m256i q[R];
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) {
        int32_t word;
        std::memcpy(&word, codes + r * row_stride, 4);
        q[r] = _mm256_cvtepu8_epi16(_mm_set1_epi32(word));
      }
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const __m256i b = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + 16 * v)));
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(q[r], b));
      }
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i pairs = _mm256_hadd_epi32(acc[r][2 * h], acc[r][2 * h + 1]);
      const __m256i start = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(init + 8 * h));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + r * kPanel + 8 * h),
                          _mm256_add_epi32(start, _mm256_permute4x64_epi64(pairs, 0xd8)));
    }
  }
}

// The sixteens of columns without a weight of -128, whose sums begin; none where it does not pay.
uint32_t begin_signed(int64_t rows, const Run* runs, int run_count, const int8_t* panel, int64_t columns, const int32_t* init,
                      int32_t* sums) {
  int64_t steps = 0;
  for (int j = 0; j < run_count; ++j) steps += runs[j].groups;
  if (rows < kSignedLeastRows || steps < kSignedLeastSteps * run_count) return 0;
  uint32_t strips = 0;
  for (int64_t c = 0; c < columns; c += 16) {
    const auto* from = reinterpret_cast<const __m256i*>(init + c);
    __m256i begin[2] = {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
    bool fits = true;
    for (int j = 0; j < run_count; ++j) {
      fits = add_shifted_sums(reinterpret_cast<const uint8_t*>(panel) + runs[j].w + 4 * c, runs[j].groups, begin) && fits;
    }
    if (!fits) continue;
    strips |= 1u << (c / 16);
    for (int64_t r = 0; r < rows; ++r) {
      for (int h = 0; h < 2; ++h) _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + r * kPanel + c + 8 * h), begin[h]);
    }
  }
  return strips;
}

void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const int8_t* panel,
          int64_t columns, const int32_t* init, int32_t* sums) {
  const uint32_t strips = begin_signed(rows, runs, run_count, panel, columns, init, sums);
  for (int64_t r = 0; strips != 0 && r < rows; r += kSignedRows) {
    for (int j = 0; j < run_count; ++j) {
      const auto row = [&](int64_t i) { return a + (r + i) * row_stride + runs[j].a; };
      const auto* b = reinterpret_cast<const uint8_t*>(panel) + runs[j].w;
      add_signed_products(row, std::min(kSignedRows, rows - r), b, runs[j].groups, strips, sums + r * kPanel);
    }
  }
  for (int64_t c = 0; c < columns; c += 16) {
    if ((strips >> (c / 16) & 1) != 0) continue;
    const int8_t* w = panel + 4 * c;
    int64_t r = 0;
    for (; r + 3 <= rows; r += 3) {
      tile<3>(a + r * row_stride, row_stride, runs, run_count, w, init + c, sums + r * kPanel + c);
    }
    if (rows - r == 2) tile<2>(a + r * row_stride, row_stride, runs, run_count, w, init + c, sums + r * kPanel + c);
    if (rows - r == 1) tile<1>(a + r * row_stride, row_stride, runs, run_count, w, init + c, sums + r * kPanel + c);
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_avx2.h"
#include "cpu/kernels/conv_grad_generic.h"

namespace torchqat::cpu::conv {
GradKernels grad_kernels_avx2() { return grad_kernels; }
Kernels kernels_avx2() { return {1, &quantize_masked, &mask_values, &pad_rows, &reads_plain_rows, &strips}; }
}  // namespace torchqat::cpu::conv
