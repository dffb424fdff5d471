// Integer grids with scales from the blocks themselves.
#include "cuda/kernels/dynamic.h"

#include "cuda/kernels/dynamic.cuh"

namespace torchqat::cuda {
namespace {

template <typename T>
struct IntegerRule {
  using S = Compute<T>;
  Grid<S> grid;
  bool symmetric;
  int64_t* nonfinite;

  __device__ __forceinline__ Params<S> params(const Extremes<S>& e, bool first) const {
    // Integers: the order of the additions does not matter.
    if (first && e.skipped != 0 && nonfinite != nullptr) {
      atomicAdd(reinterpret_cast<unsigned long long*>(nonfinite), static_cast<unsigned long long>(e.skipped));
    }
    const auto q = numerics::qparams(Lane<S>(e.lo), Lane<S>(e.hi), grid.quant_min, grid.quant_max, symmetric);
    return {q.scale, q.zero_point};
  }
  __device__ __forceinline__ bool apply(T in, T& out, const Params<S>& p) const {
    return FakeQuantize<T>::apply(in, out, p, grid);
  }
};

template <typename T>
bool try_dynamic(const Dynamic& a, Stream stream) {
  using S = Compute<T>;
  const IntegerRule<T> rule{
      {nullptr, nullptr, static_cast<S>(a.quant_min), static_cast<S>(a.quant_max), true}, a.symmetric, a.nonfinite};
  return launch_dynamic<T>(*a.blocks, a.in, a.out, a.mask, rule, stream);
}

}  // namespace

bool fake_quantize_dynamic(const Dynamic& a, Float type, Stream stream) {
  if (a.blocks->numel == 0) return false;
  switch (type) {
    case Float::f32: return try_dynamic<float>(a, stream);
    case Float::bf16: return try_dynamic<Bf16>(a, stream);
    case Float::f16: return try_dynamic<Half>(a, stream);
    default: return false;
  }
}

}  // namespace torchqat::cuda
