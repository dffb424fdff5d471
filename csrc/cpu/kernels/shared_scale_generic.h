// Fake quantisation of a run that shares a scale, four vectors at a time, without dividing (numerics/shared_scale.h).
#pragma once
#include <cstring>
#include <type_traits>

#include "cpu/vec/prefetch.h"
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

// Two neighbouring vectors, and the mask bits of both. stream: `to` is aligned to what is written.
template <bool stream, typename T>
TORCHQAT_INLINE void put_pair(T* to, numerics::Vec first, numerics::Vec second) {
  using numerics::Vec;
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, Bf16>) {  // one rounding for both; it takes subnormal numbers for zero, and no shared scale gives one
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v);
    if constexpr (stream) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), both);
    } else {
      _mm512_storeu_si512(to, both);
    }
    return;
  }
#endif
  if constexpr (stream) {
    first.stream(to);
    second.stream(to + Vec::size);
  } else {
    first.store(to);
    second.store(to + Vec::size);
  }
}
TORCHQAT_INLINE void put_pair_mask(uint8_t* to, uint32_t first, uint32_t second) {
  const uint32_t both = first | second << 16;
  std::memcpy(to, &both, sizeof(both));
}

// n: a multiple of shared_step. g: the grid; the scales are those of p. exact(at): elements [at, at + shared_step) the exact way,
// where the rounding of four vectors is in doubt, which is rare. seen(x) is shown every vector.
template <bool masked, bool stream, typename T, typename Scales, typename Exact, typename Seen>
TORCHQAT_INLINE void run_shared(const T* in, T* out, uint8_t* mask, int64_t n, const numerics::SharedScale& g, const Scales& p,
                                const Exact& exact, const Seen& seen) {
  using numerics::Vec;
  constexpr int vectors = shared_step / Vec::size;
  const Vec low(g.low), high(g.high), margin(g.margin), zero(0.0f);
  for (int64_t i = 0; i < n; i += shared_step) {
    run_ahead<stream, shared_step * sizeof(T)>(in + i, out + i);
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
    for (int j = 0; j < vectors; j += 2) {
      const Vec first = numerics::clamp_level(nearest[j], low, high), second = numerics::clamp_level(nearest[j + 1], low, high);
      put_pair<stream>(out + i + j * Vec::size, numerics::shared_value(first, p.scale_at(i + j * Vec::size)),
                       numerics::shared_value(second, p.scale_at(i + (j + 1) * Vec::size)));
      if constexpr (masked) {
        put_pair_mask(mask + (i + j * Vec::size) / 8, numerics::unclipped(nearest[j], first),
                      numerics::unclipped(nearest[j + 1], second));
      }
    }
  }
}

// The same for 16-bit tensors with one scale: every quotient is exact.
template <bool masked, bool stream, typename T, typename Seen>
TORCHQAT_INLINE void run_exact(const T* in, T* out, uint8_t* mask, int64_t n, const numerics::SharedScale& shared, const Seen& seen) {
  using numerics::Vec;
  const numerics::ExactScale<Vec> g(shared);
  const Vec scale(shared.scale);
  for (int64_t i = 0; i < n; i += shared_step) {
    run_ahead<stream, shared_step * sizeof(T)>(in + i, out + i);
#pragma GCC unroll 8
    for (int j = 0; j < shared_step; j += 2 * Vec::size) {
      const Vec x = Vec::load(in + i + j), next = Vec::load(in + i + j + Vec::size);
      seen(x);
      seen(next);
      const Vec first = numerics::clamp_level(x, g.first, g.last), second = numerics::clamp_level(next, g.first, g.last);
      put_pair<stream>(out + i + j, numerics::shared_value(numerics::exact_level(first, g), scale),
                       numerics::shared_value(numerics::exact_level(second, g), scale));
      if constexpr (masked) put_pair_mask(mask + (i + j) / 8, numerics::unclipped(x, first), numerics::unclipped(next, second));
    }
  }
}

// Shorter runs do not pay for the ends of the grid that run_exact looks for first.
constexpr int64_t exact_run = 256;

struct Unseen {
  template <typename V>
  TORCHQAT_INLINE void operator()(V) const {}
};

// n elements with one scale, a multiple of shared_step, by the way that suits the type; divide(at): as run_shared's exact.
template <bool masked, bool stream, typename T, typename Exact, typename Seen>
TORCHQAT_INLINE void run_one_scale(const T* in, T* out, uint8_t* mask, int64_t n, const numerics::SharedScale& g, const Exact& divide,
                                   const Seen& seen) {
  const OneScale p{numerics::Vec(g.scale), numerics::Vec(g.reciprocal)};
  if constexpr (sizeof(T) == 2) {
    // A run may begin halfway through what a pair of vectors writes past the cache.
    const bool whole = reinterpret_cast<uintptr_t>(out) % 64 == 0;
    if (n >= exact_run) {
      whole ? run_exact<masked, stream>(in, out, mask, n, g, seen) : run_exact<masked, false>(in, out, mask, n, g, seen);
    } else {
      run_shared<masked, false>(in, out, mask, n, g, p, divide, seen);
    }
  } else {
    run_shared<masked, stream>(in, out, mask, n, g, p, divide, seen);
  }
}

}  // namespace torchqat::cpu
