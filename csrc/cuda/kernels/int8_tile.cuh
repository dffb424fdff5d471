// The int8 product of a block of rows and columns on tensor cores, for any source of rows and any use of the sums: linear layers
// and convolutions share it. K beyond 65536 is summed in segments, each converted and added in float32, as on the CPU.
#pragma once
#include "cpu/kernels/panels.h"
#include "cuda/kernels/mma.cuh"

namespace torchqat::cuda {

using cpu::kPanelColumns;
using cpu::kSegment;

// rows x columns of a block, and of a warp in it.
template <int block_m, int block_n, int warp_m, int warp_n>
struct Tiling {
  static constexpr int bm = block_m, bn = block_n, wm = warp_m, wn = warp_n, bk = 64;
  static constexpr int warps_m = bm / wm, warps_n = bn / wn, threads = warps_m * warps_n * warp_size;
  static constexpr int panels = bn / static_cast<int>(kPanelColumns);
  // Copies of two steps are under way while a third is multiplied.
  static constexpr int stages = 3;
  static constexpr int rows_of_thread = bm * 4 / threads;  // of the block: thread / 4, and every threads / 4 from there on
  static constexpr int lines_of_thread = panels * 256 / threads;  // sixteens of the panels' lines: thread, and every threads from there
  static_assert(threads % 16 == 0 && bm * 4 % threads == 0 && panels * 256 % threads == 0 && stages * (bm + bn) * bk <= 48 * 1024);
};

// Where the lines of 256 bytes that this thread copies begin; blocks beyond the last panel repeat it and are dropped.
template <typename Tile>
struct PanelLines {
  const int8_t* from[Tile::lines_of_thread];
  __device__ __forceinline__ PanelLines(const int8_t* weights, int64_t n_panels, int64_t k_padded, int64_t panel) {
#pragma unroll
    for (int i = 0; i < Tile::lines_of_thread; ++i) {
      const int c = static_cast<int>(threadIdx.x) + i * Tile::threads, line = c / 16;
      const int64_t p = panel + line / 16 < n_panels ? panel + line / 16 : n_panels - 1;
      from[i] = weights + p * k_padded * kPanelColumns + line % 16 * 256 + c % 16 * 16;
    }
  }
};

// Sixteen bytes of K lie together; which of a row's (or a line's) sixteens is where depends on the row, so that the words of a
// fragment lie in 32 different banks without padding.
template <typename Tile>
struct Stage {
  __align__(16) uint8_t a[Tile::bm * Tile::bk];
  __align__(16) uint32_t b[Tile::bn * Tile::bk / 4];

  static __device__ __forceinline__ int a_at(int row, int sixteen) { return row * Tile::bk + (sixteen ^ (row >> 1 & 3)) * 16; }
  static __device__ __forceinline__ int b_at(int line, int column) {
    return line * static_cast<int>(kPanelColumns) + ((column / 4) ^ (line & 3) * 2) * 4 + column % 4;
  }

  // One sixteen of a row, and of a line of a panel, for each thread in turn. Source: copy(shared, which of the thread's rows, k).
  template <typename Source>
  __device__ __forceinline__ void load(const Source& source, const PanelLines<Tile>& lines, int k) {
    const int thread = static_cast<int>(threadIdx.x), sixteen = thread % 4;
#pragma unroll
    for (int i = 0; i < Tile::rows_of_thread; ++i) {
      source.copy(a + a_at(thread / 4 + i * (Tile::threads / 4), sixteen), i, k + sixteen * 16);
    }
#pragma unroll
    for (int i = 0; i < Tile::lines_of_thread; ++i) {
      copy_async(b + b_at((thread + i * Tile::threads) / 16, thread % 16 * 4), lines.from[i] + static_cast<int64_t>(k) * kPanelColumns);
    }
  }
};

// Sink: uses(row of the block), uses_column(column of the block); exact(acc, segment, row, column) is the segment's sum as a float;
// store(sum, row, column).
template <typename Tile, bool segmented, typename Source, typename Sink>
__device__ __forceinline__ void multiply_block(Stage<Tile> (&stages)[Tile::stages], const Source& source, const int8_t* weights,
                                               int64_t n_panels, int64_t k_padded, int64_t panel, const Sink& sink) {
  constexpr int mt = Tile::wm / 16, nt = Tile::wn / 8;
  const int steps = static_cast<int>(k_padded / Tile::bk);
  const PanelLines<Tile> lines(weights, n_panels, k_padded, panel);
  const int warp_row = warp() / Tile::warps_n * Tile::wm, warp_column = warp() % Tile::warps_n * Tile::wn;
  const int g = lane() / 4, t = lane() % 4;
  int32_t acc[mt][nt][4] = {};
  float total[segmented ? mt : 1][segmented ? nt : 1][4] = {};

  const auto each = [&](auto&& visit) {
#pragma unroll
    for (int i = 0; i < mt; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row + i * 16 + h * 8 + g;
        if (!sink.uses(row)) continue;
#pragma unroll
        for (int j = 0; j < nt; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int column = warp_column + j * 8 + t * 2 + e;
            if (sink.uses_column(column)) visit(i, j, h * 2 + e, row, column);
          }
        }
      }
    }
  };

  const auto load = [&](int step, int stage) {
    if (step < steps) stages[stage].load(source, lines, step * Tile::bk);
    commit_copies();
  };
#pragma unroll
  for (int s = 0; s < Tile::stages - 1; ++s) load(s, s);
  int now = 0;
  for (int step = 0; step < steps; ++step) {
    wait_copies<Tile::stages - 2>();
    __syncthreads();
    // Every thread is done with the stage of the step before, which is the next to be filled.
    load(step + Tile::stages - 1, now == 0 ? Tile::stages - 1 : now - 1);
    const Stage<Tile>& stage = stages[now];
    now = now + 1 == Tile::stages ? 0 : now + 1;
#pragma unroll
    for (int kk = 0; kk < Tile::bk / 32; ++kk) {
      uint32_t a[mt][4];
#pragma unroll
      for (int i = 0; i < mt; ++i) load_fragment(a[i], stage.a + Stage<Tile>::a_at(warp_row + i * 16 + lane() % 16, kk * 2 + lane() / 16));
#pragma unroll
      for (int j = 0; j < nt; ++j) {
        const int column = warp_column + j * 8 + g, line = column / 64 * 16 + kk * 8 + t;
        const uint32_t b[2] = {stage.b[Stage<Tile>::b_at(line, column % 64)], stage.b[Stage<Tile>::b_at(line + 4, column % 64)]};
#pragma unroll
        for (int i = 0; i < mt; ++i) mma_u8s8(acc[i][j], a[i], b);
      }
    }
    if constexpr (segmented) {
      if ((step + 1) % (kSegment / Tile::bk) == 0 || step + 1 == steps) {
        const int segment = step / (kSegment / Tile::bk);
        each([&](int i, int j, int e, int row, int column) {
          const float part = sink.exact(acc[i][j][e], segment, row, column);
          total[i][j][e] = segment == 0 ? part : total[i][j][e] + part;
          acc[i][j][e] = 0;
        });
      }
    }
  }
  each([&](int i, int j, int e, int row, int column) {
    if constexpr (segmented) {
      sink.store(total[i][j][e], row, column);
    } else {
      sink.store(sink.exact(acc[i][j][e], 0, row, column), row, column);
    }
  });
}

}  // namespace torchqat::cuda
