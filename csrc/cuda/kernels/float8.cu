// Rows to 8-bit float codes in one reading, and the epilogue of their product.
#include "cuda/kernels/float8.h"

#include "cuda/kernels/dynamic.cuh"
#include "cuda/kernels/float_lane.cuh"
#include "numerics/float8.h"
#include "numerics/requantize.h"

namespace torchqat::cuda {
namespace {

constexpr int threads = range_threads;

struct Format8 {
  numerics::FormatSpec spec;
  numerics::MiniFloat<Lane<float>> grid;
  explicit Format8(numerics::FloatFormat f)
      : spec(numerics::format_specs[static_cast<int>(f)]), grid(numerics::mini_float<Lane<float>, float>(spec)) {}
};

template <typename T>
__device__ __forceinline__ void write_codes(const Float8RowArgs& a, const Format8& f, int64_t at, Lane<float> scale,
                                            const T (&values)[packet]) {
  uint8_t codes[packet];
  unsigned bits = 0;
#pragma unroll
  for (int j = 0; j < packet; ++j) {
    const Lane<float> u = Lane<float>(widen<float>(values[j])) / scale;
    codes[j] = numerics::float8_bits(numerics::round_to_format(u, f.grid).v, f.spec);
    bits |= static_cast<unsigned>(numerics::passes_gradient(u, f.grid)) << j;
  }
  store_packet(a.codes + at, codes);
  if (a.mask != nullptr) a.mask[at / packet] = static_cast<uint8_t>(bits);
}

// group threads take a row and hold it.
template <typename T, int group, int held>
__global__ void __launch_bounds__(threads)
    float8_dynamic_kernel(const __grid_constant__ Float8RowArgs a, const __grid_constant__ Format8 format) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / group;
  const int member = static_cast<int>(threadIdx.x) % group;
  const bool used = row < a.rows;
  const int64_t count = used ? a.columns : 0, start = row * a.columns;
  T x[held][packet];
  Extremes<float> e;
#pragma unroll
  for (int p = 0; p < held; ++p) {
    const int64_t i = static_cast<int64_t>(p * group + member) * packet;
    if (i >= count) break;
    load_packet(static_cast<const T*>(a.input) + start + i, x[p]);
#pragma unroll
    for (int j = 0; j < packet; ++j) e.take(widen<float>(x[p][j]));
  }
  combine_group<group>(e, member);
  share<group>(e);
  const float most = static_cast<float>(format.spec.largest);
  const Lane<float> scale = numerics::qparams(Lane<float>(e.lo), Lane<float>(e.hi), -most, most, true).scale;
  if (used && member == 0) a.row_scale[row] = scale.v;
#pragma unroll
  for (int p = 0; p < held; ++p) {
    const int64_t i = static_cast<int64_t>(p * group + member) * packet;
    if (i >= count) break;
    write_codes(a, format, start + i, scale, x[p]);
  }
}

template <typename T>
__global__ void __launch_bounds__(threads)
    float8_static_kernel(const __grid_constant__ Float8RowArgs a, const __grid_constant__ Format8 format) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * packet;
  if (at >= a.rows * a.columns) return;
  T x[packet];
  load_packet(static_cast<const T*>(a.input) + at, x);
  const float scale = a.scale[a.stride == 0 ? 0 : at / a.columns];
  write_codes(a, format, at, Lane<float>(positive_or_nan(scale)), x);
}

template <typename T>
bool launch_rows(const Float8RowArgs& a, Stream stream) {
  if (a.columns % packet != 0 || !packets_fit(static_cast<const T*>(a.input))) return false;
  const Format8 format(a.format);
  if (a.scale != nullptr) {
    launch(float8_static_kernel<T>, blocks_for(a.rows * a.columns, threads * packet), dim3(threads), stream, a, format);
    return true;
  }
  const auto go = [&]<int group, int held>() {
    launch(float8_dynamic_kernel<T, group, held>, blocks_for(a.rows * group, threads), dim3(threads), stream, a, format);
    return true;
  };
  if (a.columns <= warp_size * packet) return go.template operator()<warp_size, 1>();
  if (a.columns <= threads * 2 * packet) return go.template operator()<threads, 2>();
  if (a.columns <= threads * 4 * packet) return go.template operator()<threads, 4>();
  return false;
}

// A thread takes eight results of a row, or fewer at its end.
template <typename T>
__global__ void __launch_bounds__(threads) float8_finish_kernel(const __grid_constant__ Float8Finish a, bool aligned) {
  const int64_t per_row = ceil_div<int64_t>(a.n, packet), i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int64_t row = i / per_row, column = i % per_row * packet;
  if (row >= a.m) return;
  const int n = a.n - column < packet ? static_cast<int>(a.n - column) : packet;
  const bool whole = aligned && n == packet;
  float sums[packet];
  T out[packet];
  load_some(a.sums + row * a.n + column, n, whole, sums);
  const float row_scale = positive_or_nan(a.row_scale[row * a.row_stride]);
#pragma unroll
  for (int j = 0; j < packet; ++j) {
    if (j >= n) break;
    const int64_t c = column + j;
    const float y = numerics::integer_layer_value(sums[j], row_scale, positive_or_nan(a.column_scale[c * a.column_stride]));
    out[j] = narrow<T>(a.bias != nullptr ? y + a.bias[c] : y);
  }
  store_some(static_cast<T*>(a.out) + row * a.n + column, n, whole, out);
}

template <typename T>
void launch_finish(const Float8Finish& a, Stream stream) {
  const bool aligned = a.n % packet == 0 && packets_fit(a.sums) && packets_fit(static_cast<T*>(a.out));
  launch(float8_finish_kernel<T>, blocks_for(a.m * ceil_div<int64_t>(a.n, packet), threads), dim3(threads), stream, a, aligned);
}

}  // namespace

bool float8_rows(const Float8RowArgs& a, Stream stream) {
  if (a.rows == 0 || a.columns == 0) return false;
  switch (a.type) {
    case Float::bf16: return launch_rows<Bf16>(a, stream);
    case Float::f16: return launch_rows<Half>(a, stream);
    default: return launch_rows<float>(a, stream);
  }
}

void float8_finish(const Float8Finish& a, Stream stream) {
  if (a.m == 0 || a.n == 0) return;
  switch (a.out_type) {
    case Float::bf16: return launch_finish<Bf16>(a, stream);
    case Float::f16: return launch_finish<Half>(a, stream);
    default: return launch_finish<float>(a, stream);
  }
}

int compute_capability() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  return 10 * major + minor;
}

}  // namespace torchqat::cuda
