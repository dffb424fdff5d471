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
  // Pitches that spread a fragment's 32 words over the 32 banks.
  static constexpr int a_pitch = 80;       // bytes per row of 64
  static constexpr int b_pitch = 72;       // words per line of 64
  static constexpr int a_bytes = bm * a_pitch;
  static constexpr int b_words = panels * (bk / 4) * b_pitch;
  static_assert(2 * (a_bytes + 4 * b_words) <= 48 * 1024);
};

template <typename Tile>
struct Stage {
  __align__(16) uint8_t a[Tile::a_bytes];
  __align__(16) uint32_t b[Tile::b_words];

  // Sixteen bytes of K of one row, or of one line of a panel, for each thread in turn. Source: copy(shared, row of the block, k).
  template <typename Source>
  __device__ __forceinline__ void load(const Source& source, const int8_t* weights, int64_t n_panels, int64_t k_padded,
                                       int64_t panel, int64_t k) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int c = thread; c < Tile::bm * 4; c += Tile::threads) {
      source.copy(a + c / 4 * Tile::a_pitch + c % 4 * 16, c / 4, k + c % 4 * 16);
    }
    for (int c = thread; c < Tile::panels * 256; c += Tile::threads) {
      const int line = c / 16;  // of panels * 16 lines of 256 bytes
      const int64_t p = panel + line / 16 < n_panels ? panel + line / 16 : n_panels - 1;
      copy_async(b + line * Tile::b_pitch + c % 16 * 4,
                 weights + (p * k_padded + k) * kPanelColumns + line % 16 * 256 + c % 16 * 16);
    }
  }
};

// Sink: uses(row of the block), uses_column(column of the block); exact(acc, segment, row, column) is the segment's sum as a float;
// store(sum, row, column).
template <typename Tile, bool segmented, typename Source, typename Sink>
__device__ __forceinline__ void multiply_block(Stage<Tile> (&stages)[2], const Source& source, const int8_t* weights,
                                               int64_t n_panels, int64_t k_padded, int64_t panel, const Sink& sink) {
  constexpr int mt = Tile::wm / 16, nt = Tile::wn / 8;
  const int64_t steps = k_padded / Tile::bk;
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

  if (steps > 0) stages[0].load(source, weights, n_panels, k_padded, panel, 0);
  commit_copies();
  for (int64_t step = 0; step < steps; ++step) {
    if (step + 1 < steps) stages[(step + 1) % 2].load(source, weights, n_panels, k_padded, panel, (step + 1) * Tile::bk);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const Stage<Tile>& stage = stages[step % 2];
#pragma unroll
    for (int kk = 0; kk < Tile::bk / 32; ++kk) {
      uint32_t a[mt][4], b[nt][2];
#pragma unroll
      for (int i = 0; i < mt; ++i) {
        const uint8_t* from = stage.a + (warp_row + i * 16 + g) * Tile::a_pitch + kk * 32 + t * 4;
        a[i][0] = *reinterpret_cast<const uint32_t*>(from);
        a[i][1] = *reinterpret_cast<const uint32_t*>(from + 8 * Tile::a_pitch);
        a[i][2] = *reinterpret_cast<const uint32_t*>(from + 16);
        a[i][3] = *reinterpret_cast<const uint32_t*>(from + 8 * Tile::a_pitch + 16);
      }
#pragma unroll
      for (int j = 0; j < nt; ++j) {
        const int column = warp_column + j * 8 + g;
        const uint32_t* from = stage.b + (column / 64 * 16 + kk * 8 + t) * Tile::b_pitch + column % 64;
        b[j][0] = from[0];
        b[j][1] = from[4 * Tile::b_pitch];
      }
#pragma unroll
      for (int i = 0; i < mt; ++i) {
#pragma unroll
        for (int j = 0; j < nt; ++j) mma_u8s8(acc[i][j], a[i], b[j]);
      }
    }
    __syncthreads();
    if constexpr (segmented) {
      if ((step + 1) % (kSegment / Tile::bk) == 0 || step + 1 == steps) {
        const int64_t segment = step / (kSegment / Tile::bk);
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
