// The source of stochastic_{scalar,avx2,avx512}.cpp: tile by tile, scales spread over the tile.
#pragma once
#include <cstring>

#include "cpu/kernels/runs.h"
#include "cpu/kernels/stochastic.h"
#include "cpu/vec/lanes32.h"
#include "numerics/stochastic.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

template <typename T, typename V>
void stochastic(const AffineArgs& a, int64_t begin, int64_t end, uint64_t seed, uint64_t offset) {
  using S = typename V::Scalar;
  using U = typename numerics::IntegerLanes<V>::Type;
  constexpr int chunk = 16;
  const T* in = static_cast<const T*>(a.in);
  T* out = static_cast<T*>(a.out);
  const S* scale = static_cast<const S*>(a.scale);
  const V low(static_cast<S>(a.quant_min)), high(static_cast<S>(a.quant_max));
  S scales[tile], zero_points[tile];
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    for_runs(*a.blocks, at, at + n, [&](int64_t position, int64_t length, int64_t index) {
      const S s = scale[index], z = a.zero_point ? static_cast<S>(a.zero_point[index]) : S(0);
      for (int64_t i = 0; i < length; ++i) scales[position - at + i] = s;
      for (int64_t i = 0; i < length; ++i) zero_points[position - at + i] = z;
    });
    for (int64_t i = n; i % chunk != 0; ++i) {
      scales[i] = S(1);
      zero_points[i] = S(0);
    }
    // A tile lies within one stretch of 2^32 places.
    const auto key = numerics::random_key(seed, offset, static_cast<uint64_t>(at) >> 32);
    for (int64_t i = 0; i < n; i += chunk) {
      const int left = static_cast<int>(n - i < chunk ? n - i : chunk);
      T room[chunk] = {}, result[chunk];
      const T* from = in + at + i;
      if (left < chunk) from = static_cast<const T*>(std::memcpy(room, from, static_cast<size_t>(left) * sizeof(T)));
      uint32_t bits = 0;
      for (int j = 0; j < chunk; j += V::size) {
        const V s = V::load(scales + i + j), z = V::load(zero_points + i + j);
        const V random = numerics::random_bits(U::from(static_cast<uint32_t>(at + i + j)), key).to_float(s);
        const V level = numerics::stochastic_level(V::load(from + j), s, z, random);
        numerics::affine_value(numerics::clamp_level(level, low, high), s, z).store(result + j);
        bits |= numerics::mask_bits(in_range(level, low, high)) << j;
      }
      std::memcpy(out + at + i, result, static_cast<size_t>(left) * sizeof(T));
      if (a.mask == nullptr) continue;
      bits &= (1u << left) - 1u;
      a.mask[(at + i) / 8] = static_cast<uint8_t>(bits);
      if (left > 8) a.mask[(at + i) / 8 + 1] = static_cast<uint8_t>(bits >> 8);
    }
  }
}

}  // namespace torchqat::cpu

#define TORCHQAT_STOCHASTIC_KERNELS                                                                           \
  {                                                                                                           \
    {                                                                                                         \
      &stochastic<float, numerics::Vec>, &stochastic<Bf16, numerics::Vec>, &stochastic<Half, numerics::Vec>,  \
          &stochastic<double, numerics::Wide>                                                                 \
    }                                                                                                         \
  }
