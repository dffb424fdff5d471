// The register tile of grouped weights on AVX-VNNI: 6 rows x 16 columns, whose sums begin with what the zero points take away.
#pragma once
#include "cpu/kernels/grouped_lanes_avx2.h"
#include "cpu/kernels/linear_grouped_gemm.h"
#include "cpu/kernels/unrolled.h"

namespace torchqat::cpu {
namespace {

// rows x 64 columns, `round` steps of four k at a time; zero_point [rows] split; total [rows][64].
template <int rows, int round>
__attribute__((noinline)) void vnni_tile(const GroupedLayout& w, const uint8_t* a, int64_t lda, const UnpackedBlock& block,
                                         const int32_t* zero_point, float* total) {
  using numerics::Vec;
  const int64_t rounds = w.group_padded / (4 * round);
  for (int64_t c0 = 0; c0 < kGroupedColumns; c0 += 16) {
    const uint8_t *b = block.codes + 4 * c0, *x = a;
    for (int64_t group = 0; group < block.groups; ++group) {
      const int32_t* sums = block.sums + group * kGroupedColumns + c0;
      const __m256i below[2] = {load32(sums), load32(sums + 8)};
      __m256i acc[2 * rows];
      unrolled<2 * rows>([&](auto i) __attribute__((always_inline)) {
        acc[i] = _mm256_madd_epi16(below[i % 2], _mm256_set1_epi32(zero_point[i / 2]));
      });
      int64_t left = rounds;
      do {
        unrolled<round>([&](auto step) __attribute__((always_inline)) {
          const __m256i s[2] = {load32(b + kGroupedLine * step), load32(b + kGroupedLine * step + 32)};
          unrolled<rows>([&](auto r) __attribute__((always_inline)) {
            const __m256i u = broadcast4(x + r * lda + 4 * step);
            acc[2 * r] = dot<U8S8>(acc[2 * r], u, s[0]);
            acc[2 * r + 1] = dot<U8S8>(acc[2 * r + 1], u, s[1]);
          });
        });
        b += kGroupedLine * round;
        x += 4 * round;
      } while (--left > 0);
      keep_in_memory();
      const float* scale = block.scale + group * kGroupedColumns + c0;
      unrolled<2 * rows>([&](auto i) __attribute__((always_inline)) {
        float* t = total + i / 2 * kGroupedColumns + c0 + i % 2 * 8;
        numerics::add_group(Vec::load(t), Lanes::to_float(acc[i]), Vec::load(scale + i % 2 * 8)).store(t);
      });
    }
  }
}

struct VnniTile {
  template <bool>
  static void rows(const GroupedLayout& w, const uint8_t* a, int64_t lda, int64_t rows, const UnpackedBlock& block,
                   const int32_t* zero_point, float* total) {
    if (w.group_padded % 16 == 0) return all<4>(w, a, lda, rows, block, zero_point, total);
    all<1>(w, a, lda, rows, block, zero_point, total);
  }

 private:
  template <int round>
  static void all(const GroupedLayout& w, const uint8_t* a, int64_t lda, int64_t rows, const UnpackedBlock& block,
                  const int32_t* zero_point, float* total) {
    using Tile = void (*)(const GroupedLayout&, const uint8_t*, int64_t, const UnpackedBlock&, const int32_t*, float*);
    static constexpr Tile tiles[] = {&vnni_tile<1, round>, &vnni_tile<2, round>, &vnni_tile<3, round>,
                                     &vnni_tile<4, round>, &vnni_tile<5, round>, &vnni_tile<6, round>};
    // Rows split evenly among the tiles.
    const int64_t count = (rows + 5) / 6;
    for (int64_t tile = 0, r = 0, here = 0; tile < count; ++tile, r += here) {
      here = (rows - r) / (count - tile);
      tiles[here - 1](w, a + r * lda, lda, block, zero_point + r, total + r * kGroupedColumns);
    }
  }
};

}  // namespace
}  // namespace torchqat::cpu
