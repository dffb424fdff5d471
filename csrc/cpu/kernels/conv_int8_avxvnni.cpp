// Convolution on AVX-VNNI: tiles of up to 6 rows x 16 columns.
#include "cpu/kernels/conv_int8.h"
#include "cpu/kernels/dot_avxvnni.h"
#include "cpu/kernels/unrolled.h"

namespace torchqat::cpu::conv {
namespace {

void gemm_begin() {}
void gemm_end() {}

template <int R>
void tile(const uint8_t* a, int64_t row_stride, const Run* runs, int run_count, const uint8_t* panel, const int32_t* init, int32_t* sums) {
  __m256i acc[2 * R];
  unrolled<2 * R>([&](auto i) __attribute__((always_inline)) { acc[i] = load32(init + 8 * (i % 2)); });
  for (int j = 0; j < run_count; ++j) {
    const uint8_t* codes = a + runs[j].a;
    const uint8_t* w = panel + runs[j].w;
    const auto step = [&](auto g) __attribute__((always_inline)) {
      const __m256i left = load32(w + 4 * kPanel * g), right = load32(w + 4 * kPanel * g + 32);
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        const __m256i q = broadcast4(codes + r * row_stride + 4 * g);
        acc[2 * r] = dot<U8S8>(acc[2 * r], q, left);
        acc[2 * r + 1] = dot<U8S8>(acc[2 * r + 1], q, right);
      });
    };
    // Four groups to a round: the loop's own instructions would take the products' ports.
    int64_t g = runs[j].groups;
    for (; g >= 4; g -= 4, codes += 16, w += 16 * kPanel) unrolled<4>(step);
    for (; g > 0; --g, codes += 4, w += 4 * kPanel) step(std::integral_constant<int, 0>{});
  }
  unrolled<2 * R>([&](auto i) __attribute__((always_inline)) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i / 2 * kPanel + 8 * (i % 2)), acc[i]);
  });
}

void gemm(const uint8_t* a, int64_t row_stride, int64_t rows, const Run* runs, int run_count, const int8_t* panel,
          int64_t columns, const int32_t* init, int32_t* sums) {
  using Tile = void (*)(const uint8_t*, int64_t, const Run*, int, const uint8_t*, const int32_t*, int32_t*);
  static constexpr Tile tiles[] = {&tile<1>, &tile<2>, &tile<3>, &tile<4>, &tile<5>, &tile<6>};
  const int64_t count = (rows + 5) / 6;
  for (int64_t c = 0; c < columns; c += 16) {
    // Rows split evenly among the tiles.
    for (int64_t t = 0, r = 0; t < count; ++t) {
      const int64_t here = (rows - r) / (count - t);
      tiles[here - 1](a + r * row_stride, row_stride, runs, run_count, reinterpret_cast<const uint8_t*>(panel) + 4 * c, init + c,
                      sums + r * kPanel + c);
      r += here;
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

#include "cpu/kernels/conv_depthwise_avx2.h"
#include "cpu/kernels/conv_grad_generic.h"

namespace torchqat::cpu::conv {
GradKernels grad_kernels_avxvnni() { return grad_kernels; }
Kernels kernels_avxvnni() { return {1, &quantize_masked, &mask_values, &pad_rows, &reads_plain_rows, &strips}; }
}  // namespace torchqat::cpu::conv
