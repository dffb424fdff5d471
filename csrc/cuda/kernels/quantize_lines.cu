// A thread takes eight neighbouring values of a row.
#include "cuda/kernels/quantize_lines.h"

#include "cuda/kernels/lane.cuh"
#include "numerics/affine.h"

namespace torchqat::cuda {
namespace {

constexpr int threads = 256;

template <typename T>
__global__ void __launch_bounds__(threads) quantize_lines_kernel(const __grid_constant__ QuantizeLines q, bool aligned) {
  const int64_t packets = ceil_div<int64_t>(q.columns, packet);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= q.rows * packets) return;
  const int64_t row = i / packets, first = i % packets * packet, left = q.columns - first;
  const int n = left < packet ? static_cast<int>(left) : packet;
  const float shift = static_cast<float>(q.shift);
  const float low = static_cast<float>(q.quant_min) + shift, high = static_cast<float>(q.quant_max) + shift;
  T values[packet];
  uint8_t codes[packet];
  load_some(static_cast<const T*>(q.input) + row * q.columns + first, n, aligned && n == packet, values);
  unsigned bits = 0;
  bool nan = false;
  int64_t group = first / q.group, next = (group + 1) * q.group;
#pragma unroll
  for (int j = 0; j < packet; ++j) {
    if (j >= n) {
      codes[j] = 0;
      continue;
    }
    if (first + j == next) {
      ++group;
      next += q.group;
    }
    const float s = q.scale[row * q.scale_stride + group];
    const float z = q.zero_point != nullptr ? q.zero_point[row * q.zero_point_stride + group] : 0.0f;
    // An invalid zero point: the layer gives NaN, whatever the codes.
    const float zero_point = numerics::in_range(z + shift, low, high) ? z + shift : numerics::clamp_level(shift, low, high);
    const float value = widen<float>(values[j]);
    const float level = numerics::affine_level(value, s, zero_point);
    const float code = numerics::storable_code(numerics::clamp_level(level, low, high), zero_point);
    codes[j] = static_cast<uint8_t>(static_cast<int32_t>(code));  // the low byte: two's complement where the grid is signed
    bits |= static_cast<unsigned>(numerics::in_range(level, low, high)) << j;
    nan |= numerics::is_nan(value);
  }
  store_some(q.codes + row * q.columns + first, n, aligned && n == packet, codes);
  if (q.mask != nullptr) q.mask[row * packets + first / packet] = static_cast<uint8_t>(bits);
  // Whichever thread writes it, it is the same NaN.
  if (nan && q.nan_rows != nullptr) q.nan_rows[row] = std::numeric_limits<float>::quiet_NaN();
}

template <typename T>
void launch_lines(const QuantizeLines& q, Stream stream) {
  const bool aligned = q.columns % packet == 0 && packets_fit(static_cast<const T*>(q.input)) && packets_fit(q.codes);
  launch(quantize_lines_kernel<T>, blocks_for(q.rows * ceil_div<int64_t>(q.columns, packet), threads), dim3(threads), stream, q,
         aligned);
}

}  // namespace

void quantize_lines(const QuantizeLines& q, Stream stream) {
  if (q.rows * q.columns == 0) return;
  switch (q.type) {
    case Float::bf16: return launch_lines<Bf16>(q, stream);
    case Float::f16: return launch_lines<Half>(q, stream);
    default: return launch_lines<float>(q, stream);
  }
}

}  // namespace torchqat::cuda
