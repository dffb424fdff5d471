// What surrounds the integer GEMM: activations' rows to u8 codes, weights to panels with their column sums.
#pragma once
#include "cpu/kernels/panels.h"
#include "cuda/kernels/dynamic.cuh"
#include "cuda/kernels/int8_gemm.h"
#include "numerics/affine.h"

namespace torchqat::cuda {

using cpu::kPanelColumns;
using cpu::kSegment;

constexpr int row_threads = 256;

__device__ inline bool same_header(const uint8_t* packed, const HeaderWords& header) {
  bool same = true;
  for (int i = 0; i < 16; ++i) same &= reinterpret_cast<const uint32_t*>(packed)[i] == header.words[i];
  return same;
}

// A row's scale and zero point in the form that is stored, and its codes.
struct RowGrid {
  float scale, zero_point, low, high;

  __device__ __forceinline__ RowGrid(const QuantizeRows& q, float s, float z) {
    const float shift = static_cast<float>(q.shift);
    low = static_cast<float>(q.quant_min) + shift;
    high = static_cast<float>(q.quant_max) + shift;
    const bool valid = s > 0.0f && s <= std::numeric_limits<float>::max() && numerics::in_range(z + shift, low, high) &&
                       (q.packed == nullptr || same_header(q.packed, q.header));
    scale = valid ? s : std::numeric_limits<float>::quiet_NaN();
    zero_point = numerics::clamp_level(Lane<float>(z + shift), Lane<float>(low), Lane<float>(high)).v;
    if (numerics::is_nan(zero_point)) zero_point = low;
  }
  // n values from column `first` on, to codes and mask; true if one is NaN.
  template <typename T>
  __device__ __forceinline__ bool write(const QuantizeRows& q, int64_t row, int64_t first, int n, const T (&values)[packet]) const {
    uint8_t stored[packet];
    unsigned bits = 0;
    bool nan = false;
#pragma unroll
    for (int j = 0; j < packet; ++j) {
      const float value = widen<float>(values[j]);
      const float level = numerics::affine_level(value, scale, zero_point);
      const float code = numerics::clamp_level(level, low, high);
      stored[j] = j < n ? narrow<uint8_t>(numerics::storable_code(code, zero_point)) : uint8_t{0};
      bits |= static_cast<unsigned>(j < n && numerics::in_range(level, low, high)) << j;
      nan |= j < n && numerics::is_nan(value);
    }
    store_packet(q.codes + row * q.padded_columns + first, stored);
    if (q.mask != nullptr && n > 0) q.mask[row * ceil_div<int64_t>(q.columns, packet) + first / packet] = static_cast<uint8_t>(bits);
    return nan;
  }
};

__device__ __forceinline__ int columns_left(const QuantizeRows& q, int64_t first) {
  const int64_t left = q.columns - first;
  return left < 0 ? 0 : left < packet ? static_cast<int>(left) : packet;
}

// What the GEMM reads of a row; the row is NaN where a value was. Every thread of the block takes part.
template <int group>
__device__ __forceinline__ void finish_row(const QuantizeRows& q, int64_t row, int member, bool used, bool nan, float scale,
                                           float zero_point) {
  const unsigned seen_by_lanes = __ballot_sync(full_warp, nan);
  nan = seen_by_lanes != 0;
  if constexpr (group > warp_size) {
    __shared__ int seen[row_threads / warp_size];
    if (lane() == 0) seen[warp()] = nan;
    __syncthreads();
    for (int w = 0; w < group / warp_size; ++w) nan |= seen[w] != 0;
  }
  if (used && member == 0) {
    q.row_scale[row] = nan ? std::numeric_limits<float>::quiet_NaN() : scale;
    q.row_zero_point[row] = static_cast<int32_t>(zero_point);
  }
}

// group threads (a warp or a block) take a row.
template <typename T, int group>
__global__ void __launch_bounds__(row_threads) quantize_rows_kernel(const __grid_constant__ QuantizeRows q, bool aligned) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x) / group;
  const int member = static_cast<int>(threadIdx.x) % group;
  const bool used = row < q.rows;
  bool nan = false;
  float scale = 1, zero_point = 0;
  if (used) {
    const RowGrid grid(q, q.scale[row * q.stride], q.zero_point[row * q.stride]);
    const T* x = static_cast<const T*>(q.input) + row * q.columns;
    for (int64_t first = static_cast<int64_t>(member) * packet; first < q.padded_columns; first += group * packet) {
      const int n = columns_left(q, first);
      T values[packet];
      load_some(x + first, n, aligned && n == packet, values);
      nan |= grid.write(q, row, first, n, values);
    }
    scale = grid.scale;
    zero_point = grid.zero_point;
  }
  finish_row<group>(q, row, member, used, nan, scale, zero_point);
}

// The same with scale and zero point from the row: it is read once, into registers.
template <typename T, int group, int held>
__global__ void __launch_bounds__(row_threads)
    quantize_rows_dynamic_kernel(const __grid_constant__ QuantizeRows q, bool symmetric, bool aligned) {
  static_assert(row_threads == range_threads);
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x) / group;
  const int member = static_cast<int>(threadIdx.x) % group;
  const bool used = row < q.rows;
  const T* x = static_cast<const T*>(q.input) + (used ? row : 0) * q.columns;
  T values[held][packet];
  Extremes<float> e;
#pragma unroll
  for (int p = 0; p < held; ++p) {
    const int64_t first = static_cast<int64_t>(p * group + member) * packet;
    const int n = used ? columns_left(q, first) : 0;
    load_some(x + first, n, aligned && n == packet, values[p]);
#pragma unroll
    for (int j = 0; j < packet; ++j) {
      if (j < n) e.take(widen<float>(values[p][j]));
    }
  }
  combine_group<group>(e, member);
  share<group>(e);
  const auto found = numerics::qparams(Lane<float>(e.lo), Lane<float>(e.hi), static_cast<float>(q.quant_min),
                                       static_cast<float>(q.quant_max), symmetric);
  const RowGrid grid(q, found.scale.v, found.zero_point.v);
  bool nan = false;
#pragma unroll
  for (int p = 0; p < held; ++p) {
    const int64_t first = static_cast<int64_t>(p * group + member) * packet;
    if (used && first < q.padded_columns) nan |= grid.write(q, row, first, columns_left(q, first), values[p]);
  }
  finish_row<group>(q, row, member, used, nan, grid.scale, grid.zero_point);
}

// A block takes 64 columns (rows of the weight) x 64 k: reads along k, writes along the columns.
template <typename T>
__global__ void __launch_bounds__(row_threads) pack_weights_kernel(const __grid_constant__ PackWeights p) {
  __shared__ uint32_t words[16][kPanelColumns + 1];
  const int64_t k_padded = cpu::padded64(p.k), blocks_k = k_padded / 64;
  if (p.header_at != nullptr && blockIdx.x == 0 && threadIdx.x < 16) {
    reinterpret_cast<uint32_t*>(p.header_at)[threadIdx.x] = p.header.words[threadIdx.x];
  }
  if (blocks_k == 0 || p.n == 0) return;
  const int64_t panel = static_cast<int64_t>(blockIdx.x) / blocks_k, k = static_cast<int64_t>(blockIdx.x) % blocks_k * 64;
  const float low = static_cast<float>(p.quant_min), high = static_cast<float>(p.quant_max);
  for (int item = static_cast<int>(threadIdx.x); item < 64 * 8; item += row_threads) {
    const int column = item / 8, part = item % 8;
    const int64_t row = panel * kPanelColumns + column, first = k + part * packet;
    const int64_t left = row < p.n ? p.k - first : 0;
    const int n = left < 0 ? 0 : left < packet ? static_cast<int>(left) : packet;
    T values[packet];
    int8_t codes[packet] = {};
    load_some(static_cast<const T*>(p.weight) + row * p.k + first, n, false, values);
    if constexpr (std::is_same_v<T, int8_t>) {
      for (int j = 0; j < packet; ++j) codes[j] = values[j];
    } else if (n > 0) {
      // An invalid scale: the epilogue makes the column NaN, whatever the codes.
      const float scale = p.scale[row * p.stride];
      unsigned bits = 0;
#pragma unroll
      for (int j = 0; j < packet; ++j) {
        const float level = numerics::affine_level(widen<float>(values[j]), scale, 0.0f);
        const float code = numerics::storable_code(numerics::clamp_level(level, low, high), 0.0f);
        codes[j] = j < n ? narrow<int8_t>(code) : int8_t{0};
        bits |= static_cast<unsigned>(j < n && numerics::in_range(level, low, high)) << j;
      }
      if (p.mask != nullptr) p.mask[row * ceil_div<int64_t>(p.k, packet) + first / packet] = static_cast<uint8_t>(bits);
    }
    uint32_t pair[2];
    memcpy(pair, codes, sizeof pair);
    words[part * 2][column] = pair[0];
    words[part * 2 + 1][column] = pair[1];
  }
  __syncthreads();
  uint32_t* out = reinterpret_cast<uint32_t*>(p.panels) + (panel * k_padded + k) / 4 * kPanelColumns;
  for (int item = static_cast<int>(threadIdx.x); item < 16 * 64; item += row_threads) out[item] = words[item / 64][item % 64];
}

template <typename In, typename Out>
__global__ void __launch_bounds__(row_threads)
    mask_rows_kernel(const In* __restrict__ in, const uint8_t* __restrict__ mask, int64_t rows, int64_t columns,
                     Out* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x;
  if (i >= rows * columns) return;
  const int64_t row = i / columns, column = i % columns;
  const bool passes = mask[row * ceil_div<int64_t>(columns, packet) + column / packet] >> (column % packet) & 1;
  out[i] = narrow<Out>(passes ? widen<float>(in[i]) : 0.0f);
}

// A block takes a panel and a segment of K.
static __global__ void __launch_bounds__(row_threads) column_sums_kernel(const __grid_constant__ PackWeights p) {
  __shared__ int32_t partial[row_threads / 64][kPanelColumns];
  const int64_t k_padded = cpu::padded64(p.k), n_padded = cpu::padded64(p.n), panels = n_padded / kPanelColumns;
  const int64_t panel = static_cast<int64_t>(blockIdx.x) % panels, segment = static_cast<int64_t>(blockIdx.x) / panels;
  const int column = static_cast<int>(threadIdx.x) % 64, slice = static_cast<int>(threadIdx.x) / 64;
  const int64_t end = (segment + 1) * kSegment < k_padded ? (segment + 1) * kSegment : k_padded;
  const int8_t* from = p.panels + panel * k_padded * kPanelColumns + column * 4;
  int32_t sum = 0;
  for (int64_t k = segment * kSegment + slice * 4; k < end; k += row_threads / 64 * 4) {
    for (int j = 0; j < 4; ++j) sum += from[k * kPanelColumns + j];
  }
  partial[slice][column] = sum;
  __syncthreads();
  if (slice == 0) {
    for (int i = 1; i < row_threads / 64; ++i) sum += partial[i][column];
    p.column_sums[segment * n_padded + panel * kPanelColumns + column] = sum;
  }
}

}  // namespace torchqat::cuda
