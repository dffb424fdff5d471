// Few rows, bound by reading the weights once. A block takes 32 columns; a lane loads sixteen bytes, four neighbouring columns, and
// eight lanes a line, so a warp works on four groups at once and a block on 64. Every group's sum stays in one thread, in ascending
// K; then one thread per output adds the groups in order. So the result does not depend on how the groups were shared out.
#pragma once
#include "cuda/kernels/grouped.cuh"

namespace torchqat::cuda {

constexpr int grouped_threads = 512, grouped_columns = 32, quads = grouped_columns / 4, slices = grouped_threads / quads;

struct Quad {
  uint32_t word[4];
  __device__ __forceinline__ explicit Quad(const uint8_t* p) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    word[0] = v.x;
    word[1] = v.y;
    word[2] = v.z;
    word[3] = v.w;
  }
};

// Calls visit(quad, k of its first codes) for the lines of a group, several loads in flight.
template <int slot, typename Visit>
__device__ __forceinline__ void for_lines(const uint8_t* line, int64_t count, const Visit& visit) {
  constexpr int line_k = 32 / slot, ahead = 4;
  int64_t k = 0;
  for (; k + ahead * line_k <= count; k += ahead * line_k, line += ahead * cpu::kGroupedLine) {
    const Quad quad[ahead] = {Quad(line), Quad(line + cpu::kGroupedLine), Quad(line + 2 * cpu::kGroupedLine),
                              Quad(line + 3 * cpu::kGroupedLine)};
#pragma unroll
    for (int i = 0; i < ahead; ++i) visit(quad[i], k + i * line_k);
  }
  for (; k < count; k += line_k, line += cpu::kGroupedLine) visit(Quad(line), k);
}

// Four elements of a row as floats; beyond `left` zeros, which meet zero weights.
template <typename T>
__device__ __forceinline__ void four_values(const T* p, int64_t left, bool aligned, float (&x)[4]) {
  T values[4];
  if (aligned && left >= 4) {
    if constexpr (sizeof(T) == 4) {
      const uint4 v = *reinterpret_cast<const uint4*>(p);
      memcpy(values, &v, sizeof v);
    } else {
      const uint2 v = *reinterpret_cast<const uint2*>(p);
      memcpy(values, &v, sizeof v);
    }
  } else {
#pragma unroll
    for (int b = 0; b < 4; ++b) values[b] = b < left ? p[b] : T{};
  }
#pragma unroll
  for (int b = 0; b < 4; ++b) x[b] = widen<float>(values[b]);
}

template <int slot, int rows>
__device__ __forceinline__ void integer_group(const LinearGrouped& a, const GroupedLayout& w, const uint8_t* line, int64_t k0,
                                              int64_t count, int64_t row, float (&out)[rows][4]) {
  // With u = q + offset: sum (x - z) q = sum x u - offset sum x - z (sum u - offset n), exact modulo 2^32.
  uint32_t product[rows][4] = {}, codes_sum[rows] = {}, below[4] = {}, fours = 0;
  const uint8_t* from[rows];
#pragma unroll
  for (int r = 0; r < rows; ++r) from[r] = a.codes + (row + r < a.m ? row + r : a.m - 1) * a.lda + k0;
  for_lines<slot>(line, count, [&](const Quad& quad, int64_t k) {
#pragma unroll
    for (int j = 0; j < 8 / slot; ++j, k += 4) {
      if (k >= count) break;
      ++fours;
      uint32_t x[rows];
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        x[r] = four_codes(from[r] + k, count - k);
        codes_sum[r] = dot_u8u8(x[r], 0x01010101u, codes_sum[r]);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const uint32_t u = field<slot>(quad.word[c], j);
        below[c] = dot_u8u8(u, 0x01010101u, below[c]);
#pragma unroll
        for (int r = 0; r < rows; ++r) product[r][c] = dot_u8u8(x[r], u, product[r][c]);
      }
    }
  });
  const uint32_t offset = static_cast<uint32_t>(w.offset);
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    const uint32_t zero_point = static_cast<uint32_t>(a.row_zero_point[row + r < a.m ? row + r : a.m - 1]);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const uint32_t sum = product[r][c] - offset * codes_sum[r] - zero_point * (below[c] - offset * 4u * fours);
      out[r][c] = static_cast<float>(static_cast<int32_t>(sum));
    }
  }
}

template <int slot, int rows, typename T>
__device__ __forceinline__ void float_group(const LinearGrouped& a, const GroupedLayout& w, const uint8_t* line, int64_t k0,
                                            int64_t count, int64_t row, bool aligned, float (&acc)[rows][4], float (&sum)[rows]) {
  const float base = 8388608.0f + static_cast<float>(w.offset);
  const T* from[rows];
#pragma unroll
  for (int r = 0; r < rows; ++r) from[r] = static_cast<const T*>(a.input) + (row + r < a.m ? row + r : a.m - 1) * a.k + k0;
  for_lines<slot>(line, count, [&](const Quad& quad, int64_t k) {
#pragma unroll
    for (int j = 0; j < 8 / slot; ++j, k += 4) {
      if (k >= count) break;
      float x[rows][4];
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        four_values(from[r] + k, count - k, aligned, x[r]);
#pragma unroll
        for (int b = 0; b < 4; ++b) sum[r] = sum[r] + x[r][b];
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const uint32_t u = field<slot>(quad.word[c], j);
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          const float q = k + b < count ? code_value(u, b, base) : 0.0f;
#pragma unroll
          for (int r = 0; r < rows; ++r) {
            acc[r][c] = numerics::lane_fma(Lane<float>(x[r][b]), Lane<float>(q), Lane<float>(acc[r][c])).v;
          }
        }
      }
    }
  });
}

// T: of float inputs; void for codes.
template <int slot, int rows, typename T>
__device__ __forceinline__ void group_product(const LinearGrouped& a, const GroupedLayout& w, int64_t column, int64_t group,
                                              int64_t row, bool aligned, float (&out)[rows][4]) {
  const int64_t k0 = group * w.group, count = w.k - k0 < w.group ? w.k - k0 : w.group;
  const uint8_t* line = a.packed + 64 + column / cpu::kGroupedColumns * w.panel_bytes + group * w.group_bytes +
                        column % cpu::kGroupedColumns * 4;
  if constexpr (std::is_void_v<T>) {
    integer_group<slot, rows>(a, w, line, k0, count, row, out);
  } else {
    float sum[rows] = {};
    float_group<slot, rows, T>(a, w, line, k0, count, row, aligned, out, sum);
    if (a.zero_point.data == nullptr) return;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const Lane<float> z(column + c < a.n ? scale_at(a.zero_point, column + c, group) : 0.0f);
#pragma unroll
      for (int r = 0; r < rows; ++r) out[r][c] = numerics::without_zero_point(Lane<float>(out[r][c]), z, Lane<float>(sum[r])).v;
    }
  }
}

// aligned: four elements of float inputs may be loaded at once.
template <int rows, typename T>
__global__ void __launch_bounds__(grouped_threads) linear_grouped_kernel(const __grid_constant__ LinearGrouped a, bool aligned) {
  constexpr int groups_at_once = rows == 1 ? 128 : 64;
  __shared__ float part[groups_at_once][rows][grouped_columns], scales[groups_at_once][grouped_columns];
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * grouped_columns, row = static_cast<int64_t>(blockIdx.y) * rows;
  const int quad = static_cast<int>(threadIdx.x) % quads, slice = static_cast<int>(threadIdx.x) / quads;
  const int64_t column = first_column + quad * 4;
  bool valid;
  const GroupedLayout w = read_layout(a, valid);
  aligned = aligned && w.group % 4 == 0;
  // After the groups are done, warp r finishes row r; a lane a column.
  const int64_t own_row = row + warp(), own_column = first_column + lane();
  const bool owns = warp() < rows && own_row < a.m && own_column < a.n;
  Lane<float> total(0.0f);
  for (int64_t first = 0; valid && first < w.groups; first += groups_at_once) {
    const int64_t end = first + groups_at_once < w.groups ? first + groups_at_once : w.groups;
    for (int64_t group = first + slice; group < end; group += slices) {
      float out[rows][4] = {};
      switch (w.slot) {
        case 8: group_product<8, rows, T>(a, w, column, group, row, aligned, out); break;
        case 4: group_product<4, rows, T>(a, w, column, group, row, aligned, out); break;
        default: group_product<2, rows, T>(a, w, column, group, row, aligned, out);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        scales[group - first][quad * 4 + c] = valid_scale(column + c < a.n ? scale_at(a.scale, column + c, group) : 1.0f);
#pragma unroll
        for (int r = 0; r < rows; ++r) part[group - first][r][quad * 4 + c] = out[r][c];
      }
    }
    __syncthreads();
    if (owns) {
#pragma unroll 8
      for (int64_t group = 0; group < end - first; ++group) {
        total = numerics::add_group(total, Lane<float>(part[group][warp()][lane()]), Lane<float>(scales[group][lane()]));
      }
    }
    __syncthreads();
  }
  if (!owns) return;
  if (!valid) total = Lane<float>(std::numeric_limits<float>::quiet_NaN());
  Lane<float> y = total;
  if constexpr (std::is_void_v<T>) y = numerics::grouped_layer_value(total, Lane<float>(a.row_scale[own_row]));
  if (a.bias != nullptr) y = y + Lane<float>(a.bias[own_column]);
  store_as(a.out, a.type, own_row * a.n + own_column, y.v);
}

// T as above. Batches longer than a grid's short second dimension take several launches.
template <typename T>
void launch_few_rows(const LinearGrouped& a, Stream stream) {
  constexpr int most = 4;
  const dim3 block(grouped_threads);
  dim3 grid = blocks_for(a.n, grouped_columns);
  const auto aligned = [](const LinearGrouped& p) {
    if constexpr (std::is_void_v<T>) {
      return false;
    } else {
      return p.k % 4 == 0 && reinterpret_cast<uintptr_t>(p.input) % (4 * sizeof(T)) == 0;
    }
  };
  if (a.m == 1) {
    launch(linear_grouped_kernel<1, T>, grid, block, stream, a, aligned(a));
    return;
  }
  constexpr int64_t rows_of_launch = 65535 * most;
  for (int64_t first = 0; first < a.m; first += rows_of_launch) {
    LinearGrouped part = a;
    part.m = a.m - first < rows_of_launch ? a.m - first : rows_of_launch;
    if constexpr (std::is_void_v<T>) {
      part.codes += first * a.lda;
      part.row_scale += first;
      part.row_zero_point += first;
    } else {
      part.input = static_cast<const T*>(a.input) + first * a.k;
    }
    part.out = static_cast<uint8_t*>(a.out) + first * a.n * (a.type == Float::f32 ? 4 : 2);
    grid.y = static_cast<unsigned>(ceil_div<int64_t>(part.m, most));
    launch(linear_grouped_kernel<most, T>, grid, block, stream, part, aligned(part));
  }
}

}  // namespace torchqat::cuda
