// The instances of the low-bit kernels.
#include "cuda/kernels/low_bit.cuh"

#include "cuda/kernels/affine.cuh"

namespace torchqat::cuda {
namespace {

// Longer rows have a block of threads each.
constexpr int64_t longest_for_half_warp = 2048;

template <typename S>
struct ScaleGrid {
  const S* scale;
  __device__ Params<S> at(uint64_t index) const { return {positive_or_nan(scale[index]), S(0)}; }
};

template <typename T>
struct Binary {
  using S = Compute<T>;
  using Context = ScaleGrid<S>;
  using In = Values<T>;
  using Out = Values<T>;
  static __device__ __forceinline__ bool apply(T in, T& out, const Params<S>& p, const Context&) {
    out = narrow<T>(numerics::binary_value<S>(Lane<S>(widen<S>(in)), p.scale, Lane<S>(S(0))).v);
    return false;
  }
};

}  // namespace

void mse_qparams(const cpu::RowsArgs& a, int64_t rows, bool wide, Stream stream) {
  if (rows == 0) return;
  const bool is_short = a.length <= longest_for_half_warp;
  const auto kernel = wide ? (is_short ? mse_kernel<double, 1> : mse_kernel<double, 16>)
                           : (is_short ? mse_kernel<float, 1> : mse_kernel<float, 16>);
  launch(kernel, blocks_for(rows, is_short ? low_bit_threads / low_bit_lanes : 1), dim3(low_bit_threads), stream, a, rows);
}

void binary_scales(const cpu::RowsArgs& a, int64_t rows, bool wide, Stream stream) {
  if (rows == 0) return;
  const bool is_short = a.length <= longest_for_half_warp;
  const auto kernel = wide ? (is_short ? binary_scale_kernel<double, 1> : binary_scale_kernel<double, 16>)
                           : (is_short ? binary_scale_kernel<float, 1> : binary_scale_kernel<float, 16>);
  launch(kernel, blocks_for(rows, is_short ? low_bit_threads / low_bit_lanes : 1), dim3(low_bit_threads), stream, a, rows);
}

void fake_quantize_binary(const AffineArgs& a, Float type, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    auto* in = static_cast<T*>(const_cast<void*>(a.in));
    auto* out = static_cast<T*>(a.out);
    launch_elements<Binary<T>>(*a.blocks, {in}, {out}, nullptr, {static_cast<const Compute<T>*>(a.scale)},
                               packets_fit(in) && packets_fit(out), stream);
  });
}

}  // namespace torchqat::cuda
