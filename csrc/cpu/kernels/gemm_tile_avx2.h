// Exact AVX2 tile. Codes times weights go by signed_products_avx2.h where they can; otherwise bytes are widened to 16 bits for vpmaddwd
// (vpmaddubsw would saturate), a vector holding four columns as two partial sums each, joined at the end.
#pragma once
#include <immintrin.h>

#include <cstring>
#include <type_traits>

#include "cpu/kernels/gemm_ops.h"
#include "cpu/kernels/panels.h"
#include "cpu/kernels/signed_products_avx2.h"

namespace torchqat::cpu {
namespace {

struct Avx2Tile {
  static constexpr int64_t half = 16;

  // Four bytes of A as 16-bit numbers, four times over.
  template <typename Op>
  static TORCHQAT_INLINE __m256i widen_a(const uint8_t* a) {
    int32_t word;
    std::memcpy(&word, a, 4);
    const __m128i bytes = _mm_set1_epi32(word);
    return std::is_same_v<Op, U8S8> ? _mm256_cvtepu8_epi16(bytes) : _mm256_cvtepi8_epi16(bytes);
  }
  template <typename Op>
  static TORCHQAT_INLINE __m256i widen_b(const uint8_t* b) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
    return std::is_same_v<Op, U8S8> ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
  }
  // Eight columns from their eight pairs of partial sums.
  static TORCHQAT_INLINE void store8(__m256i low, __m256i high, int32_t* out) {
    const __m256i mixed = _mm256_hadd_epi32(low, high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute4x64_epi64(mixed, 0b11011000));
  }

  template <typename Op, int rows>
  static void rows_by_16(const uint8_t* a0, const uint8_t* a1, const uint8_t* b, int64_t steps, int32_t* acc0,
                         int32_t* acc1) {
    __m256i sum[rows][4];
    for (auto& row : sum) {
      for (auto& s : row) s = _mm256_setzero_si256();
    }
    for (int64_t s = 0; s < steps; ++s, b += 4 * kPanelColumns) {
      __m256i a[rows];
      a[0] = widen_a<Op>(a0 + 4 * s);
      if constexpr (rows == 2) a[1] = widen_a<Op>(a1 + 4 * s);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const __m256i column = widen_b<Op>(b + 16 * q);
#pragma GCC unroll 2
        for (int r = 0; r < rows; ++r) sum[r][q] = _mm256_add_epi32(sum[r][q], _mm256_madd_epi16(a[r], column));
      }
    }
    store8(sum[0][0], sum[0][1], acc0);
    store8(sum[0][2], sum[0][3], acc0 + 8);
    if constexpr (rows == 2) {
      store8(sum[1][0], sum[1][1], acc1);
      store8(sum[1][2], sum[1][3], acc1 + 8);
    }
  }

  template <typename Op>
  void multiply(const uint8_t* a0, int64_t rows0, const uint8_t* a1, int64_t rows1, int64_t lda, const uint8_t* panel,
                int64_t steps, int32_t* acc) const {
    const int64_t rows = rows0 + rows1;
    const auto codes = [&](int64_t r) { return r < rows0 ? a0 + r * lda : a1 + (r - rows0) * lda; };
    const auto sums = [&](int64_t r) { return acc + (r < rows0 ? r : half + r - rows0) * kPanelColumns; };
    uint32_t strips = 0;
    if (std::is_same_v<Op, U8S8> && rows >= kSignedLeastRows) strips = begin_signed(rows, panel, steps, sums);
    for (int64_t j = 0; j < kPanelColumns; j += 16) {
      if ((strips >> (j / 16) & 1) != 0) continue;
      int64_t r = 0;
      for (; r + 2 <= rows; r += 2) rows_by_16<Op, 2>(codes(r), codes(r + 1), panel + 4 * j, steps, sums(r) + j, sums(r + 1) + j);
      if (r < rows) rows_by_16<Op, 1>(codes(r), codes(r), panel + 4 * j, steps, sums(r) + j, sums(r) + j);
    }
    if (strips == 0) return;
    // Rows of a tile lie side by side in acc.
    for (int64_t first : {int64_t{0}, rows0}) {
      const int64_t end = first == 0 ? rows0 : rows;
      for (int64_t r = first; r < end; r += kSignedRows) {
        add_signed_products([&](int64_t i) { return codes(r + i); }, std::min(kSignedRows, end - r), panel, steps, strips, sums(r));
      }
    }
  }

 private:
  // Which sixteens of columns have no weight of -128; their sums begin.
  template <typename Sums>
  static uint32_t begin_signed(int64_t rows, const uint8_t* panel, int64_t steps, Sums sums) {
    uint32_t strips = 0;
    for (int64_t j = 0; j < kPanelColumns; j += 16) {
      __m256i begin[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      if (!add_shifted_sums(panel + 4 * j, steps, begin)) continue;
      strips |= 1u << (j / 16);
      for (int64_t r = 0; r < rows; ++r) {
        for (int h = 0; h < 2; ++h) _mm256_store_si256(reinterpret_cast<__m256i*>(sums(r) + j + 8 * h), begin[h]);
      }
    }
    return strips;
  }
};

}  // namespace
}  // namespace torchqat::cpu
