// The stochastic operation for the driver of affine.cuh.
#include "cuda/kernels/stochastic.h"

#include "cuda/kernels/affine.cuh"
#include "numerics/stochastic.h"

namespace torchqat::cuda {
namespace {

template <typename S>
struct RandomGrid {
  Grid<S> grid;
  uint64_t seed, offset;
  numerics::RandomKey first;  // of the first 2^32 places
  __device__ Params<S> at(uint64_t index) const { return grid.at(index); }
};

template <typename T>
struct Stochastic {
  using WantsPlace = void;
  using S = Compute<T>;
  using Context = RandomGrid<S>;
  using In = Values<T>;
  using Out = Values<T>;
  static __device__ __forceinline__ bool apply(T in, T& out, const Params<S>& p, const Context& c, int64_t place) {
    const uint64_t high_word = static_cast<uint64_t>(place) >> 32;
    const auto key = high_word == 0 ? c.first : numerics::random_key(c.seed, c.offset, high_word);
    const uint32_t random = numerics::random_bits(static_cast<uint32_t>(place), key);
    const Lane<S> low(c.grid.quant_min), high(c.grid.quant_max);
    const Lane<S> level =
        numerics::stochastic_level(Lane<S>(widen<S>(in)), p.scale, p.zero_point, Lane<S>(static_cast<S>(random)));
    out = narrow<T>(numerics::affine_value(numerics::clamp_level(level, low, high), p.scale, p.zero_point).v);
    return numerics::in_range(level, low, high);
  }
};

}  // namespace

void fake_quantize_stochastic(const AffineArgs& a, uint64_t seed, uint64_t offset, Float type, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    auto* in = static_cast<T*>(const_cast<void*>(a.in));
    auto* out = static_cast<T*>(a.out);
    const RandomGrid<Compute<T>> grid{grid_of<Compute<T>>(a, true), seed, offset, numerics::random_key(seed, offset, 0)};
    launch_elements<Stochastic<T>>(*a.blocks, {in}, {out}, a.mask, grid, packets_fit(in) && packets_fit(out), stream);
  });
}

}  // namespace torchqat::cuda
