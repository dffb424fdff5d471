// Float grids: the element-wise operation for the driver of affine.cuh; block scales, from what a group of threads holds
// (dynamic.cuh) or from ranges.
#include "cuda/kernels/float_grid.h"

#include "cuda/kernels/dynamic.cuh"
#include "cuda/kernels/float_lane.cuh"

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

// What a block's range becomes.
template <typename S>
struct ScaleRule {
  FloatScales kind;
  MiniFloat<Lane<S>> e4m3;
  numerics::MxGrid<Lane<S>> mx;
  const S* tensor_scale;  // nvfp4: one value

  __device__ __forceinline__ S scale(const Extremes<S>& e) const {
    S most = numerics::lane_max(numerics::lane_max(-e.lo, e.hi), S(0));
    if (kind == FloatScales::mx) {
      if (e.skipped != 0) most = std::numeric_limits<S>::quiet_NaN();
      return numerics::mx_scale<S>(Lane<S>(most), mx).v;
    }
    if (kind == FloatScales::nvfp4_tensor) return numerics::nvfp4_tensor_scale(most);
    const Lane<S> whole(positive_or_nan(*tensor_scale));
    const Lane<S> found = numerics::nvfp4_scale<S>(Lane<S>(most), whole, e4m3);
    return numerics::is_nan(whole) ? whole.v : found.v;
  }
};

template <typename S>
ScaleRule<S> rule_of(FloatScales kind, FloatFormat format, numerics::ScaleRounding rounding, const void* tensor_scale) {
  return {kind, grid_of<S>(FloatFormat::e4m3fn),
          numerics::mx_grid<Lane<S>, S>(numerics::format_specs[static_cast<int>(format)], rounding),
          static_cast<const S*>(tensor_scale)};
}

template <typename T>
struct BlockRule {
  using S = Compute<T>;
  ScaleRule<S> scales;
  FloatGrid<S> grid;

  __device__ __forceinline__ Params<S> params(const Extremes<S>& e, bool) const {
    return {positive_or_nan(scales.scale(e)), S(0)};
  }
  __device__ __forceinline__ bool apply(T in, T& out, const Params<S>& p) const {
    return FakeQuantizeFloat<T>::apply(in, out, p, grid);
  }
};

// A warp per scale where there are chunks to combine, else a thread.
template <typename S, int group>
__global__ void __launch_bounds__(range_threads) float_scales_kernel(FloatScaleArgs a, ScaleRule<S> rule) {
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
  static_cast<S*>(a.scale)[scale] = rule.scale(e);
}

template <typename S>
void launch_scales(const FloatScaleArgs& a, Stream stream) {
  const int group = a.chunks > 1 ? warp_size : 1;
  launch(group == 1 ? float_scales_kernel<S, 1> : float_scales_kernel<S, warp_size>, blocks_for(a.scales * group, range_threads),
         dim3(range_threads), stream, a, rule_of<S>(a.kind, a.format, a.rounding, a.tensor_scale));
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

bool fake_quantize_float_blocks(const FloatGridArgs& a, FloatScales kind, numerics::ScaleRounding rounding,
                                const void* tensor_scale, Float type, Stream stream) {
  if (a.blocks->numel == 0) return false;
  const auto run = [&]<typename T>(T*) {
    using S = Compute<T>;
    const BlockRule<T> rule{rule_of<S>(kind, a.format, rounding, tensor_scale), {nullptr, grid_of<S>(a.format)}};
    return launch_dynamic<T>(*a.blocks, a.in, a.out, a.mask, rule, stream);
  };
  switch (type) {
    case Float::f32: return run(static_cast<float*>(nullptr));
    case Float::bf16: return run(static_cast<Bf16*>(nullptr));
    case Float::f16: return run(static_cast<Half*>(nullptr));
    default: return false;
  }
}

void finish_float_scales(const FloatScaleArgs& a, bool wide, Stream stream) {
  if (a.scales == 0) return;
  wide ? launch_scales<double>(a, stream) : launch_scales<float>(a, stream);
}

}  // namespace torchqat::cuda
