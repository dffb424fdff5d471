// Operands of block-scaled products in one reading: a thread takes eight neighbours, four or two threads share a block.
#include "cuda/kernels/block_float.h"

#include "cuda/kernels/float_lane.cuh"
#include "cuda/kernels/range.cuh"
#include "numerics/block_float.h"

namespace torchqat::cuda {
namespace {

constexpr int threads = range_threads;

struct BlockFormat {
  numerics::FormatSpec spec, scale_spec;
  numerics::MiniFloat<Lane<float>> grid, scale_grid;
  explicit BlockFormat(numerics::FloatFormat f)
      : spec(numerics::format_specs[static_cast<int>(f)]), scale_spec(numerics::format_specs[static_cast<int>(numerics::FloatFormat::e4m3fn)]),
        grid(numerics::mini_float<Lane<float>, float>(spec)), scale_grid(numerics::mini_float<Lane<float>, float>(scale_spec)) {}
};

// group: threads of a block of elements.
template <typename T, int group>
__global__ void __launch_bounds__(threads)
    block_float_kernel(const __grid_constant__ BlockFloatArgs a, const __grid_constant__ BlockFormat f, bool aligned) {
  constexpr bool halves = group == 2;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * packet;
  const bool used = at < a.rows * a.columns;
  T x[packet];
  Extremes<float> e;
  if (used) {
    load_some(static_cast<const T*>(a.input) + at, packet, aligned, x);
#pragma unroll
    for (int j = 0; j < packet; ++j) e.take(widen<float>(x[j]));
  }
  e.template across<group>();
  if (!used) return;
  const float amax = numerics::lane_max(0.0f, numerics::lane_max(-e.lo, e.hi));
  Lane<float> scale;
  uint8_t bits;
  if constexpr (halves) {
    const Lane<float> whole = *a.tensor_scale;
    scale = numerics::nvfp4_scale<float>(Lane<float>(amax), whole, f.scale_grid);
    const Lane<float> level = numerics::round_to_format(scale / whole, f.scale_grid);
    bits = e.skipped != 0 ? uint8_t{0x7f} : numerics::float8_bits(level.v, f.scale_spec);
  } else {
    scale = numerics::carrier_scale(amax, f.spec);
    bits = numerics::e8m0_bits(scale.v);
  }
  uint8_t codes[packet];
#pragma unroll
  for (int j = 0; j < packet; ++j) {
    const float v = widen<float>(x[j]);
    const float q = numerics::round_to_format(Lane<float>(v) / scale, f.grid).v;
    if constexpr (halves) {
      codes[j] = static_cast<uint8_t>(numerics::float4_bits(q, f.spec));
    } else {
      codes[j] = numerics::is_finite(Lane<float>(v)) ? numerics::float8_bits(q, f.spec) : uint8_t{0x7f};
    }
  }
  if constexpr (halves) {
    uint32_t word = 0;
#pragma unroll
    for (int j = 0; j < packet; ++j) word |= static_cast<uint32_t>(codes[j]) << (4 * j);
    reinterpret_cast<uint32_t*>(a.codes)[at / packet] = word;
  } else {
    store_packet(a.codes + at, codes);
  }
  constexpr int block = group * packet;
  if (at % block == 0) {
    const int64_t blocks = a.columns / block;
    a.scale[numerics::swizzled_scale(at / a.columns, at / block % blocks, ceil_div<int64_t>(blocks, 4))] = bits;
  }
}

template <typename T>
void launch_codes(const BlockFloatArgs& a, Stream stream) {
  const BlockFormat format(a.format);
  const dim3 grid = blocks_for(ceil_div<int64_t>(a.rows * a.columns, packet), threads);
  const bool aligned = packets_fit(static_cast<const T*>(a.input));
  if (a.format == numerics::FloatFormat::e2m1) {
    launch(block_float_kernel<T, 2>, grid, dim3(threads), stream, a, format, aligned);
  } else {
    launch(block_float_kernel<T, 4>, grid, dim3(threads), stream, a, format, aligned);
  }
}

}  // namespace

void block_float_codes(const BlockFloatArgs& a, Stream stream) {
  if (a.rows == 0 || a.columns == 0) return;
  switch (a.type) {
    case Float::bf16: return launch_codes<Bf16>(a, stream);
    case Float::f16: return launch_codes<Half>(a, stream);
    default: return launch_codes<float>(a, stream);
  }
}

}  // namespace torchqat::cuda
