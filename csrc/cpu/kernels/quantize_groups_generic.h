// Groups' scales and codes, compiled once per instruction set. A group is too short for a loop that sets itself up: what holds
// for all of it is tested once, and what does not hold is done the long way.
#pragma once
#include <limits>

#include "cpu/kernels/quantize_groups.h"
#include "cpu/kernels/quantize_span_generic.h"
#include "numerics/qparams.h"
#include "numerics/rounded_product.h"

namespace torchqat::cpu {
namespace {

template <typename F>
TORCHQAT_INLINE auto with_input_type(FloatType type, F f) {
  switch (type) {
    case FloatType::bfloat16: return f.template operator()<Bf16>();
    case FloatType::float16: return f.template operator()<Half>();
    default: return f.template operator()<float>();
  }
}

// Groups follow one another; the hardware looks no further than the page, the loop alone would wait at each.
template <typename T>
TORCHQAT_INLINE void ask_ahead(const T* x, int64_t count) {
  constexpr int64_t ahead = 2048;
  const char* next = reinterpret_cast<const char*>(x) + ahead;
  for (int64_t at = 0; at < count * static_cast<int64_t>(sizeof(T)); at += 64) __builtin_prefetch(next + at);
}

template <typename T>
bool group_scales_of(const GroupScales& g, int64_t begin, int64_t end) {
  constexpr int64_t batch = 16;
  alignas(64) float most[batch];
  const Vec infinity(std::numeric_limits<float>::infinity());
  for (int64_t first = begin; first < end; first += batch) {
    const int64_t count = std::min(batch, end - first);
    Vec all(0.0f);
    for (int64_t r = 0; r < batch; ++r) {
      Vec largest(0.0f);
      if (r < count) {
        const T* x = static_cast<const T*>(g.input) + (first + r) * g.group;
        ask_ahead(x, g.group);
        for (int64_t j = 0; j < g.group; j += Vec::size) largest = lane_max_bits(lane_abs(Vec::load(x + j)), largest);
      }
      all = lane_max_bits(largest, all);
      most[r] = reduce_max(largest);
    }
    // By their bits infinity and NaN are the largest.
    if (numerics::mask_bits(in_range(all, Vec(0.0f), Vec(std::numeric_limits<float>::max()))) != (1u << Vec::size) - 1u) {
      return false;
    }
    for (int64_t r = 0; r < batch; r += Vec::size) {
      const Vec high = Vec::load(most + r);
      numerics::qparams(Vec(0.0f) - high, high, g.quant_min, g.quant_max, true).scale.store(most + r);
    }
    std::memcpy(g.scale + first, most, static_cast<size_t>(count) * sizeof(float));
  }
  return true;
}

// A quotient of 256 and more lies beyond any grid of bytes whichever way it rounds.
template <typename T>
void quantize_groups_of(const QuantizeRows& q, int64_t begin, int64_t end) {
  constexpr uint32_t all = (1u << Vec::size) - 1u;
  const Vec low(q.quant_min), high(q.quant_max);
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(q.input) + i * q.ld_input;
    auto* codes = reinterpret_cast<int8_t*>(q.codes + i * q.ld_codes);
    uint8_t* mask = q.mask + i * q.ld_mask;
    const Grid grid(q.scale[i], 0.0f, q.quant_min, q.quant_max);
    const Vec reciprocal(grid.reciprocal);
    Vec farthest(0.0f);
    ask_ahead(x, q.columns);
    for (int64_t j = 0; j < q.columns; j += 16) {
      uint32_t inside = 0;
#pragma GCC unroll 4
      for (int w = 0; w < 16; w += Vec::size) {
        const Vec product = Vec::load(x + j + w) * reciprocal, nearest = round_even(product);
        farthest = lane_max_bits(numerics::rounding_distance(product, nearest), farthest);
        inside |= numerics::mask_bits(in_range(nearest, low, high)) << w;
        // A NaN's code is made anew below; only the scalar conversion minds.
        const Vec code = numerics::clamp_level(nearest, low, high);
        (Vec::size == 1 ? numerics::storable_code(code, Vec(0.0f)) : code).store_s8(codes + j + w);
      }
      const auto bits = static_cast<uint16_t>(inside);
      std::memcpy(mask + j / 8, &bits, 2);
    }
    if (numerics::mask_bits(in_range(farthest, Vec(0.0f), Vec(numerics::kCertainDistance))) != all) [[unlikely]] {
      quantize_span(x, q.columns, grid, codes, mask);
    }
  }
}

TORCHQAT_INLINE bool run_group_scales(const GroupScales& g, int64_t begin, int64_t end) {
  return with_input_type(g.type, [&]<typename T>() { return group_scales_of<T>(g, begin, end); });
}

TORCHQAT_INLINE void run_quantize_groups(const QuantizeRows& q, int64_t begin, int64_t end) {
  with_input_type(q.type, [&]<typename T>() { quantize_groups_of<T>(q, begin, end); });
}

}  // namespace
}  // namespace torchqat::cpu
