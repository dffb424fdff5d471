// The loops of gemm_groups.h, compiled once per instruction set. Tile: `most` rows of 32 columns; rows<count> sums pairs of
// 16-bit products over `steps` pairs of lines into acc [count][32]; a is [count][kGroupLines].
#pragma once
#include "cpu/kernels/gemm_grad_generic.h"
#include "cpu/kernels/grad_groups_generic.h"

namespace torchqat::cpu {
namespace {

// The product of two 16-bit fractions, rounded (as vpmulhrsw).
TORCHQAT_INLINE void multiply_s16(const int16_t* a, const int16_t* b, int16_t* out, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    out[j] = static_cast<int16_t>((((static_cast<int32_t>(a[j]) * static_cast<int32_t>(b[j])) >> 14) + 1) >> 1);
  }
}

template <typename T, typename Tile, int rows>
void group_rows(const GemmGrad& g, int64_t row, const BlockColumns& block, const int16_t* panel) {
  alignas(64) int16_t scaled[rows * kGroupLines];
  alignas(64) int32_t acc[rows * kBlockColumns];
  alignas(64) float total[rows * kBlockColumns];
  const int64_t lines = g.reduction_bytes / 2, ld = g.lda / 2;
  const int16_t *a = reinterpret_cast<const int16_t*>(g.a_high) + row * ld, *scales = g.group_scales + block.group * lines;
  int64_t first = 0;
  do {
    const int64_t count = std::min(kGroupLines, lines - first);
    for (int r = 0; r < rows; ++r) multiply_s16(a + r * ld + first, scales + first, scaled + r * kGroupLines, count);
    Tile::template rows<rows>(scaled, panel + first * kBlockColumns, count / 2, acc);
    for (int64_t j = 0; j < rows * kBlockColumns; j += Vec::size) {
      const Vec sum = Vec::load_s32(acc + j);
      (first == 0 ? sum : Vec::load(total + j) + sum).store(total + j);
    }
    first += kGroupLines;
  } while (first < lines);
  const Vec unit(g.group_units[block.group]);
  for (int r = 0; r < rows; ++r) {
    const float* sums = total + r * kBlockColumns;
    finish_gradient<T, kBlockColumns>(g, row + r, block.first, [&](int64_t j) { return Vec::load(sums + j) * unit; }, block.count);
  }
}

template <typename T, typename Tile>
void run_gemm_groups_of(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const BlockColumns block(g.n, g.group, p);
    const int16_t* panel =
        reinterpret_cast<const int16_t*>(g.panels) + (p - g.first_panel) * g.reduction_bytes / 2 * kBlockColumns;
    int64_t i = row_begin;
    for (; i + Tile::most <= row_end; i += Tile::most) group_rows<T, Tile, Tile::most>(g, i, block, panel);
    for (; i + Tile::some <= row_end; i += Tile::some) group_rows<T, Tile, Tile::some>(g, i, block, panel);
    for (; i < row_end; ++i) group_rows<T, Tile, 1>(g, i, block, panel);
  }
}

template <typename Tile>
void run_gemm_groups(const GemmGrad& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  with_output_type(g.type, [&]<typename T>() { run_gemm_groups_of<T, Tile>(g, row_begin, row_end, panel_begin, panel_end); });
}

}  // namespace
}  // namespace torchqat::cpu
