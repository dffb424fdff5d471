// Quantising a run of values that share a scale, sixteen at a time: what activations' rows and weights' rows have in
// common. Code is uint8_t or int8_t.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/vec/vec.h"
#include "numerics/affine.h"
#include "numerics/rounded_product.h"

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

// Four vectors of codes, side by side.
template <typename Code>
TORCHQAT_INLINE void store_codes4(const Vec (&code)[4], Code* p) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const auto words = [](Vec a, Vec b) __attribute__((always_inline)) {
    return _mm256_packs_epi32(_mm256_cvtps_epi32(a.v), _mm256_cvtps_epi32(b.v));
  };
  const __m256i left = words(code[0], code[1]), right = words(code[2], code[3]);
  const __m256i bytes = std::is_same_v<Code, uint8_t> ? _mm256_packus_epi16(left, right) : _mm256_packs_epi16(left, right);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(bytes, order));
#else
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) store_code(code[w], p + w * Vec::size);
#endif
}

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

// Four vectors, with one test for all: false, and nothing to use, where a lane is NaN or so near to a tie that it needs the division
// (numerics/quotient.h has the margin).
template <bool masked, typename T, typename Code>
TORCHQAT_INLINE bool quantize4(const T* x, const Grid& grid, Code* codes, uint64_t& inside) {
  const Vec low(grid.quant_min), high(grid.quant_max), zero_point(grid.zero_point), reciprocal(grid.reciprocal);
  Vec code[4], worst(0.0f);
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) {
    const Vec product = Vec::load(x + w * Vec::size) * reciprocal, nearest = round_even(product), level = nearest + zero_point;
    worst = numerics::lane_max_bits(lane_abs(product - nearest) + lane_abs(product) * Vec(0x1p-21f), worst);
    code[w] = numerics::clamp_level(level, low, high);
    if constexpr (masked) inside |= static_cast<uint64_t>(numerics::mask_bits(in_range(level, low, high))) << (w * Vec::size);
  }
  constexpr uint32_t all = (1u << Vec::size) - 1u;
  if (numerics::mask_bits(in_range(worst, Vec(0.0f), Vec(0.5f))) != all) [[unlikely]] return false;
  store_codes4(code, codes);
  return true;
}

constexpr int64_t kSpanAhead = 2048;  // bytes: rows follow one another, but the hardware looks no further than the page

// 64 values, if none of them needs the division or is NaN. Products are clamped one step outside the grid before they are
// rounded: that keeps them small, as the certain distance wants, and tells what lies outside. False: nothing is written.
template <typename T, typename Code>
TORCHQAT_INLINE bool quantize64(const T* x, const Grid& grid, Code* codes, uint8_t* mask) {
  constexpr int vectors = 64 / Vec::size;
  const Vec zero_point(grid.zero_point), reciprocal(grid.reciprocal), one(1.0f);
  const Vec low = Vec(grid.quant_min) - zero_point, high = Vec(grid.quant_max) - zero_point;
  const Vec below = mask != nullptr ? low - one : low, above = mask != nullptr ? high + one : high;
  Vec nearest[vectors];
  Vec farthest(0.0f);
#pragma GCC unroll 16
  for (int w = 0; w < vectors; ++w) {
    if (w * Vec::size * sizeof(T) % 64 == 0) {
      __builtin_prefetch(reinterpret_cast<const char*>(x + w * Vec::size) + kSpanAhead);
    }
    const Vec product = numerics::clamp_level(Vec::load(x + w * Vec::size) * reciprocal, below, above);
    nearest[w] = round_even(product);
    farthest = lane_max_bits(numerics::rounding_distance(product, nearest[w]), farthest);
  }
  constexpr uint32_t all = (1u << Vec::size) - 1u;
  if (numerics::mask_bits(in_range(farthest, Vec(0.0f), Vec(numerics::kCertainDistance))) != all) [[unlikely]] return false;
  if (mask != nullptr) {
    uint64_t inside = 0;
#pragma GCC unroll 16
    for (int w = 0; w < vectors; ++w) {
      inside |= uint64_t{numerics::mask_bits(in_range(nearest[w], low, high))} << (w * Vec::size);
      nearest[w] = numerics::clamp_level(nearest[w], low, high);
    }
    std::memcpy(mask, &inside, 8);
  }
#pragma GCC unroll 16
  for (int w = 0; w < vectors; ++w) store_code(nearest[w] + zero_point, codes + w * Vec::size);
  return true;
}

// codes[0, count); mask, if given, gets ceil(count / 8) bytes. True if a value is NaN.
template <typename T, typename Code>
TORCHQAT_INLINE bool quantize_span(const T* x, int64_t count, const Grid& grid, Code* codes, uint8_t* mask) {
  uint32_t nan = 0;
  int64_t j = 0;
  constexpr int64_t step = 4 * Vec::size;
  const auto fours = [&](auto masked) __attribute__((always_inline)) {
    for (; j + step <= count; j += step) {
      uint64_t inside = 0;
      if (!quantize4<masked.value>(x + j, grid, codes + j, inside)) [[unlikely]] {
        inside = 0;
        for (int64_t i = 0; i < step; i += 16) {
          const SpanBits bits = quantize16(x + j + i, grid, codes + j + i);
          nan |= bits.nan;
          inside |= static_cast<uint64_t>(bits.inside) << i;
        }
      }
      if constexpr (masked.value) std::memcpy(mask + j / 8, &inside, step / 8);
    }
  };
  if constexpr (step % 16 == 0) mask != nullptr ? fours(std::true_type{}) : fours(std::false_type{});
  const auto plain = [&](int64_t end) __attribute__((always_inline)) {
    for (; j + 16 <= end; j += 16) {
      const SpanBits bits = quantize16(x + j, grid, codes + j);
      nan |= bits.nan;
      if (mask != nullptr) {
        const auto inside = static_cast<uint16_t>(bits.inside);
        std::memcpy(mask + j / 8, &inside, 2);
      }
    }
  };
  while (j + 64 <= count) {
    if (quantize64(x + j, grid, codes + j, mask != nullptr ? mask + j / 8 : nullptr)) [[likely]] {
      j += 64;
    } else {
      plain(j + 64);
    }
  }
  plain(count);
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
