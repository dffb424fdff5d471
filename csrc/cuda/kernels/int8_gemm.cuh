// Exact integer GEMM over panels: a tiled tensor-core kernel, and a dot-product kernel for few rows.
#pragma once
#include "cuda/kernels/int8_gemm.h"
#include "cuda/kernels/int8_tile.cuh"
#include "cuda/kernels/lane.cuh"
#include "numerics/requantize.h"

namespace torchqat::cuda {

// What a sum of products becomes; one column of one row.
struct Epilogue {
  const float* row_scale;
  const int32_t* row_zero_point;
  const int32_t* column_sums;
  const float* column_scale;
  int64_t column_stride;
  const float* bias;
  int64_t n, n_padded;

  __device__ __forceinline__ float exact(int32_t acc, int32_t zero_point, int64_t segment, int64_t column) const {
    const uint32_t sum = static_cast<uint32_t>(column_sums[segment * n_padded + column]);
    return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(acc) - static_cast<uint32_t>(zero_point) * sum));
  }
  __device__ __forceinline__ float value(float total, float scale, int64_t column) const {
    float s = column_scale[column * column_stride];
    if (!(s > 0.0f && s <= std::numeric_limits<float>::max())) s = std::numeric_limits<float>::quiet_NaN();
    const float y = numerics::integer_layer_value(total, scale, s);
    return bias != nullptr ? y + bias[column] : y;
  }
};

// Rows of a matrix of codes: those that this thread copies.
template <typename Tile>
struct MatrixRows {
  const uint8_t* row[Tile::rows_of_thread];
  __device__ __forceinline__ MatrixRows(const uint8_t* codes, int64_t first, int64_t m, int64_t k_padded) {
#pragma unroll
    for (int i = 0; i < Tile::rows_of_thread; ++i) {
      const int64_t r = first + static_cast<int>(threadIdx.x) / 4 + i * (Tile::threads / 4);
      row[i] = codes + (r < m ? r : m - 1) * k_padded;  // rows beyond the last are computed and dropped
    }
  }
  __device__ __forceinline__ void copy(uint8_t* shared, int i, int k) const { copy_async(shared, row[i] + k); }
};

template <typename T>
struct MatrixSink {
  const Epilogue& epilogue;
  T* out;
  int64_t first_row, m, first_column;
  __device__ __forceinline__ bool uses(int row) const { return first_row + row < m; }
  __device__ __forceinline__ bool uses_column(int column) const { return first_column + column < epilogue.n; }
  __device__ __forceinline__ float exact(int32_t acc, int64_t segment, int row, int column) const {
    return epilogue.exact(acc, epilogue.row_zero_point[first_row + row], segment, first_column + column);
  }
  __device__ __forceinline__ void store(float sum, int row, int column) const {
    const int64_t r = first_row + row, c = first_column + column;
    out[r * epilogue.n + c] = narrow<T>(epilogue.value(sum, epilogue.row_scale[r], c));
  }
};

template <typename Tile, bool segmented, typename T>
__global__ void __launch_bounds__(Tile::threads, segmented ? 1 : 2)
    int8_gemm_kernel(const uint8_t* __restrict__ codes, const int8_t* __restrict__ weights, const __grid_constant__ Epilogue epilogue,
                     T* __restrict__ out, int64_t m, int64_t k_padded, int64_t row_blocks) {
  __shared__ Stage<Tile> stages[Tile::stages];
  // Neighbouring blocks share a column block of weights.
  const int64_t row = static_cast<int64_t>(blockIdx.x) % row_blocks * Tile::bm;
  const int64_t panel = static_cast<int64_t>(blockIdx.x) / row_blocks * Tile::panels;
  multiply_block<Tile, segmented>(stages, MatrixRows<Tile>(codes, row, m, k_padded), weights, epilogue.n_padded / kPanelColumns, k_padded,
                                  panel, MatrixSink<T>{epilogue, out, row, m, panel * kPanelColumns});
}

// Few rows: bound by reading the weights once. A block takes half a panel; thread (s, q) the four columns from 4 q on, and every
// 32nd group of four k.
constexpr int narrow_threads = 256, narrow_columns = 32, narrow_slices = narrow_threads / (narrow_columns / 4);

template <int rows, typename T>
__global__ void __launch_bounds__(narrow_threads)
    int8_gemm_narrow_kernel(const uint8_t* __restrict__ codes, const int8_t* __restrict__ weights, Epilogue epilogue,
                            T* __restrict__ out, int64_t first_row, int64_t m, int64_t k_padded) {
  __shared__ int32_t partial[narrow_threads / warp_size][rows][narrow_columns];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * narrow_columns;
  const int8_t* panel = weights + column / kPanelColumns * k_padded * kPanelColumns + column % kPanelColumns * 4;
  const int quad = static_cast<int>(threadIdx.x) % (narrow_columns / 4), slice = static_cast<int>(threadIdx.x) / (narrow_columns / 4);
  // The threads that finish: one column of one row each.
  const int own_row = static_cast<int>(threadIdx.x) / narrow_columns, own_column = static_cast<int>(threadIdx.x) % narrow_columns;
  const bool owns = own_row < rows && first_row + own_row < m && column + own_column < epilogue.n;
  float total = 0;
  for (int64_t segment = 0; segment == 0 || segment * kSegment < k_padded; ++segment) {
    const int64_t end = (segment + 1) * kSegment < k_padded ? (segment + 1) * kSegment : k_padded;
    int32_t acc[rows][4] = {};
#pragma unroll 4
    for (int64_t k = segment * kSegment + slice * 4; k < end; k += narrow_slices * 4) {
      const uint4 w = *reinterpret_cast<const uint4*>(panel + k * kPanelColumns + quad * 16);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const int64_t row = first_row + r < m ? first_row + r : m - 1;
        const uint32_t x = *reinterpret_cast<const uint32_t*>(codes + row * k_padded + k);
        acc[r][0] = dot_u8s8(x, w.x, acc[r][0]);
        acc[r][1] = dot_u8s8(x, w.y, acc[r][1]);
        acc[r][2] = dot_u8s8(x, w.z, acc[r][2]);
        acc[r][3] = dot_u8s8(x, w.w, acc[r][3]);
      }
    }
    // Lanes 8 apart hold the same columns.
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        for (int offset = 8; offset < warp_size; offset *= 2) acc[r][j] += __shfl_xor_sync(full_warp, acc[r][j], offset);
        if (lane() < 8) partial[warp()][r][quad * 4 + j] = acc[r][j];
      }
    }
    __syncthreads();
    if (owns) {
      uint32_t sum = 0;
      for (int w = 0; w < narrow_threads / warp_size; ++w) sum += static_cast<uint32_t>(partial[w][own_row][own_column]);
      const float part = epilogue.exact(static_cast<int32_t>(sum), epilogue.row_zero_point[first_row + own_row], segment,
                                        column + own_column);
      total = segment == 0 ? part : total + part;
    }
    __syncthreads();
  }
  if (owns) {
    const int64_t row = first_row + own_row;
    out[row * epilogue.n + column + own_column] =
        narrow<T>(epilogue.value(total, epilogue.row_scale[row], column + own_column));
  }
}

}  // namespace torchqat::cuda
