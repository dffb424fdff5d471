// Quantising a run of values that share a scale, sixteen at a time: what activations' rows and weights' rows have in
// common. Code is uint8_t or int8_t.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/vec/vec.h"
#include "numerics/affine.h"
#include "numerics/quotient.h"

namespace torchqat::cpu {
namespace {

using numerics::Vec;

struct Grid {
  float scale, zero_point, quant_min, quant_max, reciprocal;
  Grid(float s, float z, float low, float high)
      : scale(s), zero_point(z), quant_min(low), quant_max(high), reciprocal(numerics::quotient_reciprocal(s)) {}
};

struct SpanBits {
  uint32_t inside, nan;
};

TORCHQAT_INLINE void store_code(Vec code, uint8_t* p) { code.store_u8(p); }
TORCHQAT_INLINE void store_code(Vec code, int8_t* p) { code.store_s8(p); }

template <typename T, typename Code>
TORCHQAT_INLINE SpanBits quantize16(const T* x, const Grid& grid, Code* codes) {
  SpanBits bits{0, 0};
  const Vec low(grid.quant_min), high(grid.quant_max), zero_point(grid.zero_point);
  for (int j = 0; j < 16; j += Vec::size) {
    const Vec value = Vec::load(x + j);
    const Vec level = numerics::rounded_quotient(value, Vec(grid.scale), Vec(grid.reciprocal)) + zero_point;
    store_code(numerics::storable_code(numerics::clamp_level(level, low, high), zero_point), codes + j);
    bits.inside |= numerics::mask_bits(in_range(level, low, high)) << j;
    bits.nan |= numerics::mask_bits(is_nan(value)) << j;
  }
  return bits;
}

// codes[0, count); mask, if given, gets ceil(count / 8) bytes. True if a value is NaN.
template <typename T, typename Code>
TORCHQAT_INLINE bool quantize_span(const T* x, int64_t count, const Grid& grid, Code* codes, uint8_t* mask) {
  uint32_t nan = 0;
  int64_t j = 0;
  for (; j + 16 <= count; j += 16) {
    const SpanBits bits = quantize16(x + j, grid, codes + j);
    nan |= bits.nan;
    if (mask != nullptr) {
      const auto inside = static_cast<uint16_t>(bits.inside);
      std::memcpy(mask + j / 8, &inside, 2);
    }
  }
  if (j < count) {
    const auto rest = static_cast<size_t>(count - j);
    T last[16] = {};
    Code last_codes[16];
    std::memcpy(last, x + j, rest * sizeof(T));
    const SpanBits bits = quantize16(last, grid, last_codes);
    std::memcpy(codes + j, last_codes, rest);
    const uint32_t valid = (1u << rest) - 1u;
    nan |= bits.nan & valid;
    if (mask != nullptr) {
      const auto inside = static_cast<uint16_t>(bits.inside & valid);
      std::memcpy(mask + j / 8, &inside, (rest + 7) / 8);
    }
  }
  return nan != 0;
}

}  // namespace
}  // namespace torchqat::cpu
