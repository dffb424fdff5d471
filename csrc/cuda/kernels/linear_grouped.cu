// A block takes 32 output columns of a few rows. Its warps share out the groups: each group's sum stays in one thread, in
// ascending K; then one thread per output adds the groups in order. Neighbouring lanes read neighbouring words of the weight.
#include "cuda/kernels/linear_grouped.h"

#include "cuda/kernels/lane.cuh"
#include "cuda/kernels/mma.cuh"
#include "numerics/grouped.h"

namespace torchqat::cuda {
namespace {

using cpu::GroupedLayout;

constexpr int threads = 256, warps = threads / warp_size, columns = 32;
constexpr int groups_at_once = 64;
constexpr int64_t longest_integer_group = 32768;

// Nothing to multiply (groups = 0) where the header is not the one that the arguments describe.
__device__ GroupedLayout read_layout(const LinearGrouped& a, bool& valid) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.packed);
  valid = true;
  for (int i = 0; i < 16; ++i) valid &= (i >= 8 && i < 14) || words[i] == a.header.words[i];
  const int64_t group = static_cast<int64_t>(words[8] | static_cast<uint64_t>(words[9]) << 32);
  const int bits = static_cast<int>(words[10]);
  valid &= group >= 1 && (bits == 2 || bits == 3 || bits == 4 || bits == 8) && words[11] == 0 && words[12] <= 1 && words[13] == 0;
  GroupedLayout w;
  if (valid) w = cpu::grouped_layout(a.n, a.k, group, bits, words[12] == 1);
  valid &= w.groups == a.groups && a.bytes == 64 + w.panels * w.panel_bytes;
  if (a.codes != nullptr) valid &= w.offset != 0 && w.group_padded <= longest_integer_group;
  return w;
}

__device__ __forceinline__ float scale_at(const cpu::GroupedScale& s, int64_t column, int64_t group) {
  const int64_t at = column / cpu::kGroupedColumns * s.panel_stride + group * s.group_stride +
                     column % cpu::kGroupedColumns * s.column_stride;
  switch (s.type) {
    case cpu::ScaleType::bfloat16: return widen<float>(static_cast<const Bf16*>(s.data)[at]);
    case cpu::ScaleType::float16: return widen<float>(static_cast<const Half*>(s.data)[at]);
    default: return static_cast<const float*>(s.data)[at];
  }
}

// Field j of a dword: four codes u, one a byte.
template <int slot>
__device__ __forceinline__ uint32_t field(uint32_t word, int j) {
  constexpr uint32_t mask = slot == 8 ? 0xffffffffu : slot == 4 ? 0x0f0f0f0fu : 0x03030303u;
  return word >> (slot * j) & mask;
}

// Bytes u - offset, two's complement; offset at most 128.
__device__ __forceinline__ uint32_t signed_bytes(uint32_t u, uint32_t offset) {
  return offset == 128 ? u ^ 0x80808080u : ((u | 0x80808080u) - offset * 0x01010101u) ^ 0x80808080u;
}

// Four codes of a row; what lies beyond `left` meets zero weights and is not read.
__device__ __forceinline__ uint32_t four_codes(const uint8_t* p, int64_t left) {
  if (left >= 4 && reinterpret_cast<uintptr_t>(p) % 4 == 0) return *reinterpret_cast<const uint32_t*>(p);
  uint32_t word = 0;
  for (int b = 0; b < 4 && b < left; ++b) word |= static_cast<uint32_t>(p[b]) << (8 * b);
  return word;
}

template <int slot, int rows>
__device__ __forceinline__ void integer_group(const LinearGrouped& a, const GroupedLayout& w, const uint8_t* line, int64_t k0,
                                              int64_t count, int64_t row, float (&out)[rows]) {
  int32_t acc[rows] = {}, below = 0;
  for (int64_t k = 0; k < count; line += cpu::kGroupedLine) {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(line);
#pragma unroll
    for (int j = 0; j < 8 / slot; ++j, k += 4) {
      if (k >= count) break;
      const uint32_t q = signed_bytes(field<slot>(word, j), static_cast<uint32_t>(w.offset));
      below = dot_u8s8(0x01010101u, q, below);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const int64_t own = row + r < a.m ? row + r : a.m - 1;
        acc[r] = dot_u8s8(four_codes(a.codes + own * a.lda + k0 + k, count - k), q, acc[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    const int64_t own = row + r < a.m ? row + r : a.m - 1;
    const uint32_t zero_point = static_cast<uint32_t>(a.row_zero_point[own]);
    out[r] = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(acc[r]) - zero_point * static_cast<uint32_t>(below)));
  }
}

template <int slot, int rows, typename T>
__device__ __forceinline__ void float_group(const LinearGrouped& a, const GroupedLayout& w, const uint8_t* line, int64_t k0,
                                            int64_t count, int64_t row, float (&acc)[rows], float (&sum)[rows]) {
  for (int64_t k = 0; k < count; line += cpu::kGroupedLine) {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(line);
#pragma unroll
    for (int j = 0; j < 8 / slot; ++j, k += 4) {
      if (k >= count) break;
      const uint32_t u = field<slot>(word, j);
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        if (k + b >= count) break;
        const float q = static_cast<float>(static_cast<int32_t>(u >> (8 * b) & 0xff) - w.offset);
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          const int64_t own = row + r < a.m ? row + r : a.m - 1;
          const float x = widen<float>(static_cast<const T*>(a.input)[own * a.k + k0 + k + b]);
          acc[r] = numerics::lane_fma(Lane<float>(x), Lane<float>(q), Lane<float>(acc[r])).v;
          sum[r] = sum[r] + x;
        }
      }
    }
  }
}

template <int slot, int rows, bool integer, typename T>
__device__ __forceinline__ void group_product(const LinearGrouped& a, const GroupedLayout& w, int64_t column, int64_t group,
                                              int64_t row, float (&out)[rows]) {
  const int64_t k0 = group * w.group, count = w.k - k0 < w.group ? w.k - k0 : w.group;
  const uint8_t* line = a.packed + 64 + column / cpu::kGroupedColumns * w.panel_bytes + group * w.group_bytes +
                        column % cpu::kGroupedColumns * 4;
  if constexpr (integer) {
    integer_group<slot, rows>(a, w, line, k0, count, row, out);
  } else {
    float sum[rows] = {};
    for (int r = 0; r < rows; ++r) out[r] = 0.0f;
    float_group<slot, rows, T>(a, w, line, k0, count, row, out, sum);
    if (a.zero_point.data == nullptr) return;
    const Lane<float> z(scale_at(a.zero_point, column, group));
    for (int r = 0; r < rows; ++r) out[r] = numerics::without_zero_point(Lane<float>(out[r]), z, Lane<float>(sum[r])).v;
  }
}

template <int rows, bool integer, typename T>
__global__ void __launch_bounds__(threads) linear_grouped_kernel(const __grid_constant__ LinearGrouped a) {
  __shared__ float part[groups_at_once][rows][columns];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * columns + lane(), row = static_cast<int64_t>(blockIdx.y) * rows;
  bool valid;
  const GroupedLayout w = read_layout(a, valid);
  const bool in_range = column < a.n;
  // After the groups are done, warp r finishes row r.
  const int64_t own_row = row + warp();
  const bool owns = warp() < rows && own_row < a.m && in_range;
  Lane<float> total(0.0f);
  for (int64_t first = 0; valid && first < w.groups; first += groups_at_once) {
    const int64_t end = first + groups_at_once < w.groups ? first + groups_at_once : w.groups;
    if (in_range) {
      for (int64_t group = first + warp(); group < end; group += warps) {
        float out[rows];
        switch (w.slot) {
          case 8: group_product<8, rows, integer, T>(a, w, column, group, row, out); break;
          case 4: group_product<4, rows, integer, T>(a, w, column, group, row, out); break;
          default: group_product<2, rows, integer, T>(a, w, column, group, row, out);
        }
        for (int r = 0; r < rows; ++r) part[group - first][r][lane()] = out[r];
      }
    }
    __syncthreads();
    if (owns) {
      for (int64_t group = first; group < end; ++group) {
        const float s = scale_at(a.scale, column, group);
        const bool good = s > 0.0f && s <= std::numeric_limits<float>::max();
        const Lane<float> scale(good ? s : std::numeric_limits<float>::quiet_NaN());
        total = numerics::add_group(total, Lane<float>(part[group - first][warp()][lane()]), scale);
      }
    }
    __syncthreads();
  }
  if (!owns) return;
  if (!valid) total = Lane<float>(std::numeric_limits<float>::quiet_NaN());
  Lane<float> y = total;
  if constexpr (integer) y = numerics::grouped_layer_value(total, Lane<float>(a.row_scale[own_row]));
  if (a.bias != nullptr) y = y + Lane<float>(a.bias[column]);
  static_cast<T*>(a.out)[own_row * a.n + column] = narrow<T>(y.v);
}

template <typename T, bool integer>
void launch_grouped(const LinearGrouped& a, Stream stream) {
  constexpr int most = 4;
  const dim3 block(threads);
  dim3 grid = blocks_for(a.n, columns);
  if (a.m == 1) {
    launch(linear_grouped_kernel<1, integer, T>, grid, block, stream, a);
    return;
  }
  // The second dimension of a grid is short: long batches take several launches.
  constexpr int64_t rows_of_launch = 65535 * most;
  for (int64_t first = 0; first < a.m; first += rows_of_launch) {
    LinearGrouped part = a;
    part.m = a.m - first < rows_of_launch ? a.m - first : rows_of_launch;
    if (integer) {
      part.codes += first * a.lda;
      part.row_scale += first;
      part.row_zero_point += first;
    } else {
      part.input = static_cast<const T*>(a.input) + first * a.k;
    }
    part.out = static_cast<T*>(a.out) + first * a.n;
    grid.y = static_cast<unsigned>(ceil_div<int64_t>(part.m, most));
    launch(linear_grouped_kernel<most, integer, T>, grid, block, stream, part);
  }
}

template <typename T>
void launch_grouped(const LinearGrouped& a, Stream stream) {
  a.codes != nullptr ? launch_grouped<T, true>(a, stream) : launch_grouped<T, false>(a, stream);
}

}  // namespace

void linear_grouped(const LinearGrouped& a, Stream stream) {
  if (a.m == 0 || a.n == 0) return;
  switch (a.type) {
    case Float::bf16: return launch_grouped<Bf16>(a, stream);
    case Float::f16: return launch_grouped<Half>(a, stream);
    default: return launch_grouped<float>(a, stream);
  }
}

}  // namespace torchqat::cuda
