// The instances of DoReFa's kernels.
#include "cuda/kernels/dorefa.h"

#include "cuda/kernels/float_lane.cuh"
#include "cuda/kernels/learned.cuh"
#include "numerics/dorefa.h"

namespace torchqat::cuda {
namespace {

template <typename S>
struct Limits {
  const S* limit;
  __device__ Params<S> at(uint64_t index) const { return {limit[index], S(0)}; }
};

template <typename T>
struct Weight {
  using S = Compute<T>;
  using Context = Limits<S>;
  using In = Values<T>;
  using Out = Values<T>;
  static __device__ __forceinline__ bool apply(T in, T& out, const Params<S>& p, const Context&) {
    out = narrow<T>(numerics::dorefa_weight(Lane<S>(widen<S>(in)), p.scale).v);
    return false;
  }
};

// A block's limit and share; the elements beside the gradients that are changed.
template <typename T>
struct Shares {
  using S = Compute<T>;
  const S *limit, *share;
  const T* x;
  __device__ Params<S> at(uint64_t index) const { return {limit[index], share[index]}; }
};

template <typename T>
struct AtLimit {
  using S = Compute<T>;
  using Context = Shares<T>;
  using In = Values<T>;
  using Out = Values<T>;
  using WantsPlace = void;
  static __device__ __forceinline__ bool apply(T in, T& out, const Params<S>& p, const Context& c, int64_t place) {
    out = narrow<T>(numerics::dorefa_at_limit(Lane<S>(widen<S>(c.x[place])), Lane<S>(widen<S>(in)), p.scale, p.zero_point).v);
    return false;
  }
};

template <typename S>
__global__ void __launch_bounds__(affine_threads) limits_kernel(const S* lo, const S* hi, int64_t n, S* limit) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * affine_threads + threadIdx.x;
  if (i >= n) return;
  const S largest = lo[i] > hi[i] ? S(0) : numerics::lane_max(-lo[i], hi[i]);
  limit[i] = numerics::dorefa_limit(Lane<S>(largest)).v;
}

template <typename S>
__global__ void __launch_bounds__(affine_threads)
    shares_kernel(const double* sum, const double* minus_limits, const S* limit, int64_t n, S* share) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * affine_threads + threadIdx.x;
  if (i < n) share[i] = numerics::dorefa_share(sum[i], -minus_limits[i] / static_cast<double>(limit[i]), limit[i]);
}

}  // namespace

void dorefa_limits(const void* lo, const void* hi, int64_t n, void* limit, bool wide, Stream stream) {
  const auto run = [&]<typename S>(S*) {
    launch(limits_kernel<S>, blocks_for(n, affine_threads), dim3(affine_threads), stream, static_cast<const S*>(lo),
           static_cast<const S*>(hi), n, static_cast<S*>(limit));
  };
  wide ? run(static_cast<double*>(nullptr)) : run(static_cast<float*>(nullptr));
}

void dorefa_forward(const AffineArgs& a, Float type, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    auto* in = static_cast<T*>(const_cast<void*>(a.in));
    auto* out = static_cast<T*>(a.out);
    launch_elements<Weight<T>>(*a.blocks, {in}, {out}, nullptr, {static_cast<const Compute<T>*>(a.scale)},
                               packets_fit(in) && packets_fit(out), stream);
  });
}

void dorefa_backward(const LearnedArgs& a, void* share, const RangePlan& plan, Float type, Stream stream) {
  learned_sums(a, numerics::DorefaRule{}, plan, type, stream);
  with_float(type, [&]<typename T>(T*) {
    using S = Compute<T>;
    const auto* limit = static_cast<const S*>(a.scale);
    auto* own = static_cast<S*>(share);
    auto* dx = static_cast<T*>(a.dx);
    launch(shares_kernel<S>, blocks_for(a.blocks->scales, affine_threads), dim3(affine_threads), stream,
           static_cast<const double*>(a.ds), static_cast<const double*>(a.dz), limit, a.blocks->scales, own);
    launch_elements<AtLimit<T>>(*a.blocks, {dx}, {dx}, nullptr, {limit, own, static_cast<const T*>(a.x)}, packets_fit(dx), stream);
  });
}

}  // namespace torchqat::cuda
