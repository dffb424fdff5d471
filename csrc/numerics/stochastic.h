// Stochastic rounding with counter-based random numbers: the number of an element depends on the seed, the offset and the
// element's place only, so every path, thread count and device rounds alike. U: 32-bit unsigned lanes.
#pragma once
#include "numerics/affine.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// A bijection of 32-bit words with low bias (T. Cartwright's constants for C. Wellons' two-round xorshift-multiply hash).
template <typename U>
TORCHQAT_INLINE U mix(U h) {
  h = h ^ (h >> 16);
  h = h * U(0x21f0aaadu);
  h = h ^ (h >> 15);
  h = h * U(0xd35a2d97u);
  return h ^ (h >> 15);
}

struct RandomKey {
  uint32_t first, second;
};

// One key for 2^32 neighbouring elements: splitmix64 over seed, offset and the high word of the element's place.
TORCHQAT_INLINE RandomKey random_key(uint64_t seed, uint64_t offset, uint64_t high_word) {
  uint64_t state = 0;
  const uint64_t words[] = {seed, offset, high_word};
  for (const uint64_t word : words) {
    state = (state ^ word) + 0x9e3779b97f4a7c15ull;
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ull;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebull;
    state = state ^ (state >> 31);
  }
  return {static_cast<uint32_t>(state), static_cast<uint32_t>(state >> 32)};
}

// 24 uniform bits for each place.
template <typename U>
TORCHQAT_INLINE U random_bits(U place, RandomKey key) {
  return mix(mix(place + U(key.first)) ^ U(key.second)) >> 8;
}

// floor(x / s) + z, one higher with the probability of the fraction. bits: 24 uniform bits as V. Grid points stay.
template <typename V>
TORCHQAT_INLINE V stochastic_level(V x, V scale, V zero_point, V bits) {
  using S = typename V::Scalar;
  const V ratio = x / scale;
  const V nearest = round_even(ratio);
  const V zero(S(0)), one(S(1));
  const V floor = nearest - select(exceeds(nearest, ratio), one, zero);
  const V fraction = ratio - floor;  // exact, but just below 0, where it is 1
  return floor + select(exceeds(fraction * V(S(16777216)), bits), one, zero) + zero_point;
}

}  // namespace torchqat::numerics
