// Float grids: the element-wise operation for the driver of affine.cuh, and block scales from ranges.
#include "cuda/kernels/float_grid.h"

#include "cuda/kernels/affine.cuh"
#include "cuda/kernels/range.cuh"
#include "numerics/minifloat.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

template <typename S> TORCHQAT_INLINE Lane<S> exponent_power(Lane<S> x) { return exponent_power(x.v); }
template <typename S> TORCHQAT_INLINE Lane<S> with_sign(Lane<S> magnitude, Lane<S> x) { return with_sign(magnitude.v, x.v); }

}  // namespace torchqat::numerics

namespace torchqat::cuda {
namespace {

using numerics::FloatFormat;
using numerics::MiniFloat;

template <typename S>
MiniFloat<Lane<S>> grid_of(FloatFormat format) {
  return numerics::mini_float<Lane<S>, S>(numerics::format_specs[static_cast<int>(format)]);
}

template <typename S>
struct FloatGrid {
  const S* scale;
  MiniFloat<Lane<S>> format;
  __device__ Params<S> at(uint64_t index) const { return {positive_or_nan(scale[index]), S(0)}; }
};

template <typename T>
struct FakeQuantizeFloat {
  using S = Compute<T>;
  using Context = FloatGrid<S>;
  using In = Values<T>;
  using Out = Values<T>;
  static __device__ __forceinline__ bool apply(T in, T& out, const Params<S>& p, const Context& g) {
    const Lane<S> u = Lane<S>(widen<S>(in)) / p.scale;
    out = narrow<T>((numerics::round_to_format(u, g.format) * p.scale).v);
    return numerics::passes_gradient(u, g.format);
  }
};

template <typename S>
struct ScaleGrids {
  MiniFloat<Lane<S>> e4m3;
  numerics::MxGrid<Lane<S>> mx;
};

// A warp per scale where there are chunks to combine, else a thread.
template <typename S, int group>
__global__ void __launch_bounds__(range_threads) float_scales_kernel(FloatScaleArgs a, ScaleGrids<S> grids) {
  const int64_t scale = (static_cast<int64_t>(blockIdx.x) * range_threads + threadIdx.x) / group;
  const bool used = scale < a.scales;
  const int member = static_cast<int>(threadIdx.x) % group;
  Extremes<S> e;
  if (used) {
    for (int64_t chunk = member; chunk < a.chunks; chunk += group) {
      const int64_t at = chunk * a.scales + scale;
      e.merge(static_cast<const S*>(a.parts.lo)[at], static_cast<const S*>(a.parts.hi)[at]);
      e.skipped |= a.parts.skipped[at] != 0;
    }
  }
  if constexpr (group > 1) e.template across<group>();
  if (!used || member != 0) return;
  S most = numerics::lane_max(numerics::lane_max(-e.lo, e.hi), S(0));
  S* out = static_cast<S*>(a.scale) + scale;
  if (a.kind == FloatScales::mx) {
    if (e.skipped != 0) most = std::numeric_limits<S>::quiet_NaN();
    *out = numerics::mx_scale<S>(Lane<S>(most), grids.mx).v;
  } else if (a.kind == FloatScales::nvfp4_tensor) {
    *out = numerics::nvfp4_tensor_scale(most);
  } else {
    const Lane<S> tensor_scale(positive_or_nan(*static_cast<const S*>(a.tensor_scale)));
    const Lane<S> found = numerics::nvfp4_scale<S>(Lane<S>(most), tensor_scale, grids.e4m3);
    *out = numerics::is_nan(tensor_scale) ? tensor_scale.v : found.v;
  }
}

template <typename S>
void launch_scales(const FloatScaleArgs& a, Stream stream) {
  const ScaleGrids<S> grids{grid_of<S>(FloatFormat::e4m3fn), numerics::mx_grid<Lane<S>, S>(
      numerics::format_specs[static_cast<int>(a.format)], a.rounding)};
  const int group = a.chunks > 1 ? warp_size : 1;
  launch(group == 1 ? float_scales_kernel<S, 1> : float_scales_kernel<S, warp_size>, blocks_for(a.scales * group, range_threads),
         dim3(range_threads), stream, a, grids);
}

}  // namespace

void fake_quantize_float(const FloatGridArgs& a, Float type, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    using S = Compute<T>;
    auto* in = static_cast<T*>(const_cast<void*>(a.in));
    auto* out = static_cast<T*>(a.out);
    launch_elements<FakeQuantizeFloat<T>>(*a.blocks, {in}, {out}, a.mask, {static_cast<const S*>(a.scale), grid_of<S>(a.format)},
                                          packets_fit(in) && packets_fit(out), stream);
  });
}

void finish_float_scales(const FloatScaleArgs& a, bool wide, Stream stream) {
  if (a.scales == 0) return;
  wide ? launch_scales<double>(a, stream) : launch_scales<float>(a, stream);
}

}  // namespace torchqat::cuda
