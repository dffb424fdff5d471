// Choice of the tiling, and the instances of the integer GEMM.
#include "cuda/kernels/int8_gemm.cuh"

namespace torchqat::cuda {
namespace {

using Large = Tiling<128, 128, 64, 32>;
using Small = Tiling<64, 64, 32, 32>;

template <typename Tile, typename T>
void launch_tiles(const Int8Gemm& g, const Epilogue& epilogue, Stream stream) {
  const int64_t row_blocks = ceil_div<int64_t>(g.m, Tile::bm), column_blocks = ceil_div<int64_t>(g.n, Tile::bn);
  const auto kernel = g.k_padded > kSegment ? int8_gemm_kernel<Tile, true, T> : int8_gemm_kernel<Tile, false, T>;
  launch(kernel, blocks_for(row_blocks * column_blocks, 1), dim3(Tile::threads), stream, g.a, g.panels, epilogue,
         static_cast<T*>(g.out), g.m, g.k_padded, row_blocks);
}

template <int rows, typename T>
void launch_narrow(const Int8Gemm& g, const Epilogue& epilogue, Stream stream) {
  for (int64_t first = 0; first < g.m; first += rows) {
    launch(int8_gemm_narrow_kernel<rows, T>, blocks_for(g.n, narrow_columns), dim3(narrow_threads), stream, g.a, g.panels,
           epilogue, static_cast<T*>(g.out), first, g.m, g.k_padded);
  }
}

template <typename T>
void launch_gemm(const Int8Gemm& g, Stream stream) {
  const Epilogue epilogue{g.row_scale, g.row_zero_point, g.column_sums, g.column_scale,
                          g.column_stride, g.bias, g.n, cpu::padded64(g.n)};
  if (g.m <= 1) return launch_narrow<1, T>(g, epilogue, stream);
  if (g.m <= 2) return launch_narrow<2, T>(g, epilogue, stream);
  if (g.m <= 4) return launch_narrow<4, T>(g, epilogue, stream);
  if (g.m <= 8) return launch_narrow<8, T>(g, epilogue, stream);
  // Few large blocks would leave most of the device idle.
  if (g.m > 64 && ceil_div<int64_t>(g.m, 128) * ceil_div<int64_t>(g.n, 128) >= 64) return launch_tiles<Large, T>(g, epilogue, stream);
  launch_tiles<Small, T>(g, epilogue, stream);
}

}  // namespace

void int8_gemm(const Int8Gemm& g, Stream stream) {
  if (g.m == 0 || g.n == 0) return;
  switch (g.out_type) {
    case Float::bf16: return launch_gemm<Bf16>(g, stream);
    case Float::f16: return launch_gemm<Half>(g, stream);
    default: return launch_gemm<float>(g, stream);
  }
}

}  // namespace torchqat::cuda
