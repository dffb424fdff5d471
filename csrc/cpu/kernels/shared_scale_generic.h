// Fake quantisation of a run that shares a scale, four vectors at a time, without dividing (numerics/shared_scale.h). Four
// vectors whose rounding is in doubt, which is rare, are left to the caller's exact loop, before anything is written.
#pragma once
#include "cpu/vec/vec.h"
#include "numerics/shared_scale.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

// Divisions of narrower vectors cost no more than what replaces them.
template <typename V>
constexpr bool shares_scale = std::is_same_v<V, numerics::Vec> && numerics::Vec::size == 16;

constexpr int shared_step = 64;

// Scale and reciprocal of the vector at an element of the run.
struct OneScale {
  numerics::Vec scale, reciprocal;
  TORCHQAT_INLINE numerics::Vec scale_at(int64_t) const { return scale; }
  TORCHQAT_INLINE numerics::Vec reciprocal_at(int64_t) const { return reciprocal; }
};
template <int width>
struct ScalePerBlock {
  const float *scale, *reciprocal;
  TORCHQAT_INLINE numerics::Vec scale_at(int64_t i) const { return scale[i / width]; }
  TORCHQAT_INLINE numerics::Vec reciprocal_at(int64_t i) const { return reciprocal[i / width]; }
};

// n: a multiple of shared_step. g: the grid; the scales are those of p. exact(at): elements [at, at + shared_step) the exact way.
// seen(x) is shown every vector.
template <bool masked, bool stream, typename T, typename Scales, typename Exact, typename Seen>
TORCHQAT_INLINE void run_shared(const T* in, T* out, uint8_t* mask, int64_t n, const numerics::SharedScale& g, const Scales& p,
                                const Exact& exact, const Seen& seen) {
  using numerics::Vec;
  constexpr int vectors = shared_step / Vec::size;
  const Vec low(g.low), high(g.high), margin(g.margin), zero(0.0f);
  for (int64_t i = 0; i < n; i += shared_step) {
    Vec nearest[vectors], worst(0.0f);
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
      const Vec x = Vec::load(in + i + j * Vec::size);
      seen(x);
      nearest[j] = numerics::shared_nearest(x, p.reciprocal_at(i + j * Vec::size), worst);
    }
    if (numerics::mask_bits(in_range(worst, zero, margin)) != (1u << Vec::size) - 1u) [[unlikely]] {
      exact(i);
      continue;
    }
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
      const Vec clamped = numerics::clamp_level(nearest[j], low, high);
      const Vec y = numerics::shared_value(clamped, p.scale_at(i + j * Vec::size));
      T* to = out + i + j * Vec::size;
      if constexpr (stream) {
        y.stream(to);
      } else {
        y.store(to);
      }
      if constexpr (masked) {
        const auto inside = static_cast<uint16_t>(numerics::mask_bits(in_range(nearest[j], low, high)));
        std::memcpy(mask + (i + j * Vec::size) / 8, &inside, sizeof(inside));
      }
    }
  }
}

struct Unseen {
  template <typename V>
  TORCHQAT_INLINE void operator()(V) const {}
};

}  // namespace torchqat::cpu
