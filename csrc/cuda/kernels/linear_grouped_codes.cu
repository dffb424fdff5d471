// Integer inputs: tensor cores where there are rows enough for them. A block takes a panel of 64 columns; a step 64 k, unpacked from
// registers into shared memory as the operand of the int8 product. The sum of a group's weights, for the zero point, is one more
// row of the product, of ones, and so lies in the lanes that need it. Sums of groups are exact; they are added as the kernel for
// few rows adds them: the same bits.
#include "cuda/kernels/linear_grouped.cuh"

namespace torchqat::cuda {
namespace {

// Fewer rows than this are bound by reading the weights.
constexpr int64_t rows_for_tiles = 17;

constexpr int tile_threads = 128, step_k = 64, tile_columns = 64;
constexpr int a_pitch = 80, b_pitch = 72;  // bytes per row of 64, words per line of 64: a fragment's words lie in 32 banks

template <int rows>
struct GroupedStage {
  __align__(16) uint8_t a[rows * a_pitch];
  __align__(16) uint32_t b[step_k / 4 * b_pitch];
  float scale[2][tile_columns];  // of the groups that the step touches
};

__device__ __forceinline__ void store_sum(const LinearGrouped& a, float sum, int64_t row, int64_t column) {
  Lane<float> y = numerics::grouped_layer_value(Lane<float>(sum), Lane<float>(a.row_scale[row]));
  if (a.bias != nullptr) y = y + Lane<float>(a.bias[column]);
  store_as(a.out, a.type, row * a.n + column, y.v);
}

// Codes of the step, sixteen bytes a thread in turn; what lies beyond the rows' padding is 0.
template <int rows>
__device__ __forceinline__ void load_codes(GroupedStage<rows>& stage, const LinearGrouped& a, int64_t row, int64_t k) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * 4; i += tile_threads) {
    const int64_t r = row + i / 4 < a.m ? row + i / 4 : a.m - 1, at = k + i % 4 * 16;
    uint8_t* to = stage.a + i / 4 * a_pitch + i % 4 * 16;
    if (at < a.lda) {
      copy_async(to, a.codes + r * a.lda + at);
    } else {
      *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
    }
  }
}

// Sixteen bytes of a line: four columns, 32 / slot k of each.
template <int slot>
__device__ __forceinline__ void unpack_line(uint32_t* b, const uint8_t* lines, int item, uint32_t offset) {
  const int line = item / 16, column = item % 16 * 4;
  const Quad quad(lines + line * cpu::kGroupedLine + column * 4);
#pragma unroll
  for (int j = 0; j < 8 / slot; ++j) {
    uint32_t q[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) q[c] = signed_bytes(field<slot>(quad.word[c], j), offset);
    *reinterpret_cast<uint4*>(b + (line * (8 / slot) + j) * b_pitch + column) = make_uint4(q[0], q[1], q[2], q[3]);
  }
}

template <int rows>
__device__ __forceinline__ void load_weights(GroupedStage<rows>& stage, const LinearGrouped& a, const GroupedLayout& w, int64_t panel,
                                             int64_t k) {
  const int thread = static_cast<int>(threadIdx.x);
  const uint8_t* lines = a.packed + 64 + panel * w.panel_bytes + k / (32 / w.slot) * cpu::kGroupedLine;
  const int64_t left = w.groups * w.group - k;  // a multiple of 32
  const int items = static_cast<int>(left < step_k ? left : step_k) * w.slot / 32 * 16;
  const uint32_t offset = static_cast<uint32_t>(w.offset);
  for (int item = thread; item < items; item += tile_threads) {
    switch (w.slot) {
      case 8: unpack_line<8>(stage.b, lines, item, offset); break;
      case 4: unpack_line<4>(stage.b, lines, item, offset); break;
      default: unpack_line<2>(stage.b, lines, item, offset);
    }
  }
  for (int item = thread; item < 2 * tile_columns; item += tile_threads) {
    const int64_t group = (k + item / tile_columns * 32) / w.group, column = panel * tile_columns + item % tile_columns;
    stage.scale[item / tile_columns][item % tile_columns] =
        valid_scale(group < w.groups && column < a.n ? scale_at(a.scale, column, group) : 1.0f);
  }
}

// Groups that are not whole steps: a thread takes a row of four columns.
template <int rows>
__device__ __noinline__ void plain_tile(const LinearGrouped& a, const GroupedLayout& w, int64_t first_row, int64_t panel) {
  for (int item = static_cast<int>(threadIdx.x); item < rows * 16; item += tile_threads) {
    const int64_t row = first_row + item / 16, column = panel * tile_columns + item % 16 * 4;
    if (row >= a.m) return;
    Lane<float> total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int64_t group = 0; group < w.groups; ++group) {
      float sum[1][4];
      switch (w.slot) {
        case 8: group_product<8, 1, void>(a, w, column, group, row, false, sum); break;
        case 4: group_product<4, 1, void>(a, w, column, group, row, false, sum); break;
        default: group_product<2, 1, void>(a, w, column, group, row, false, sum);
      }
      for (int c = 0; c < 4; ++c) {
        const float s = valid_scale(column + c < a.n ? scale_at(a.scale, column + c, group) : 1.0f);
        total[c] = numerics::add_group(total[c], Lane<float>(sum[0][c]), Lane<float>(s));
      }
    }
    for (int c = 0; c < 4 && column + c < a.n; ++c) store_sum(a, total[c].v, row, column + c);
  }
}

// mt: tiles of 16 rows of a warp; four warps, two by two.
template <int mt>
__global__ void __launch_bounds__(tile_threads) grouped_tiles_kernel(const __grid_constant__ LinearGrouped a, int64_t row_blocks) {
  constexpr int rows = mt * 32, nt = 4;
  __shared__ GroupedStage<rows> stages[2];
  const int64_t row = static_cast<int64_t>(blockIdx.x) % row_blocks * rows, panel = static_cast<int64_t>(blockIdx.x) / row_blocks;
  const int warp_row = warp() / 2 * mt * 16, warp_column = warp() % 2 * nt * 8, g = lane() / 4, t = lane() % 4;
  bool valid;
  const GroupedLayout w = read_layout(a, valid);
  if (valid && (w.group != w.group_padded || w.group % 32 != 0)) return plain_tile<rows>(a, w, row, panel);
  const int64_t length = valid ? w.groups * w.group : 0;  // padded: K beyond the last code holds zeros
  uint32_t zero_point[mt][2];
#pragma unroll
  for (int i = 0; i < mt; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t r = row + warp_row + i * 16 + h * 8 + g;
      zero_point[i][h] = static_cast<uint32_t>(a.row_zero_point[r < a.m ? r : a.m - 1]);
    }
  }
  const uint32_t ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
  int32_t acc[mt][nt][4] = {}, below[nt][4] = {};
  float total[mt][nt][4] = {};

  if (length > 0) {
    load_codes(stages[0], a, row, 0);
    commit_copies();
    load_weights(stages[0], a, w, panel, 0);
  }
  for (int64_t k = 0, step = 0; k < length; k += step_k, ++step) {
    if (k + step_k < length) load_codes(stages[(step + 1) % 2], a, row, k + step_k);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const GroupedStage<rows>& stage = stages[step % 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t at = k + half * 32;
      if (at >= length) break;
      uint32_t x[mt][4], b[nt][2];
#pragma unroll
      for (int i = 0; i < mt; ++i) {
        const uint8_t* from = stage.a + (warp_row + i * 16 + g) * a_pitch + half * 32 + t * 4;
        x[i][0] = *reinterpret_cast<const uint32_t*>(from);
        x[i][1] = *reinterpret_cast<const uint32_t*>(from + 8 * a_pitch);
        x[i][2] = *reinterpret_cast<const uint32_t*>(from + 16);
        x[i][3] = *reinterpret_cast<const uint32_t*>(from + 8 * a_pitch + 16);
      }
#pragma unroll
      for (int j = 0; j < nt; ++j) {
        const uint32_t* from = stage.b + (half * 8 + t) * b_pitch + warp_column + j * 8 + g;
        b[j][0] = from[0];
        b[j][1] = from[4 * b_pitch];
        mma_u8s8(below[j], ones, b[j]);
#pragma unroll
        for (int i = 0; i < mt; ++i) mma_u8s8(acc[i][j], x[i], b[j]);
      }
      if ((at + 32) % w.group != 0) continue;
#pragma unroll
      for (int j = 0; j < nt; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float s = stage.scale[half][warp_column + j * 8 + t * 2 + e];
          const uint32_t weights = static_cast<uint32_t>(below[j][e]);
#pragma unroll
          for (int i = 0; i < mt; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              const uint32_t sum = static_cast<uint32_t>(acc[i][j][h * 2 + e]) - zero_point[i][h] * weights;
              float& own = total[i][j][h * 2 + e];
              own = numerics::add_group(Lane<float>(own), Lane<float>(static_cast<float>(static_cast<int32_t>(sum))), Lane<float>(s)).v;
              acc[i][j][h * 2 + e] = 0;
            }
          }
          below[j][e] = below[j][2 + e] = 0;
        }
      }
    }
    if (k + step_k < length) load_weights(stages[(step + 1) % 2], a, w, panel, k + step_k);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < mt; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t r = row + warp_row + i * 16 + h * 8 + g;
      if (r >= a.m) continue;
#pragma unroll
      for (int j = 0; j < nt; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int64_t column = panel * tile_columns + warp_column + j * 8 + t * 2 + e;
          if (column >= a.n) continue;
          store_sum(a, valid ? total[i][j][h * 2 + e] : std::numeric_limits<float>::quiet_NaN(), r, column);
        }
      }
    }
  }
}

template <int mt>
void launch_tiles(const LinearGrouped& a, Stream stream) {
  const int64_t row_blocks = ceil_div<int64_t>(a.m, mt * 32);
  launch(grouped_tiles_kernel<mt>, blocks_for(row_blocks * ceil_div<int64_t>(a.n, tile_columns), 1), dim3(tile_threads), stream, a,
         row_blocks);
}

}  // namespace

void linear_grouped_codes(const LinearGrouped& a, Stream stream) {
  if (a.m < rows_for_tiles || !a.whole_tiles) return launch_few_rows<void>(a, stream);
  a.m > 64 ? launch_tiles<4>(a, stream) : launch_tiles<2>(a, stream);
}

}  // namespace torchqat::cuda
