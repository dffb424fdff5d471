// rint(x / scale) by a multiplication, exactly: where the product with the reciprocal lies so near to a tie that the
// true quotient could round the other way, the division is done after all.
#pragma once
#include "cpu/vec/vec.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// What rounded_quotient wants beside the scale. A reciprocal below the normal range has lost bits: NaN sends every lane to
// the division.
TORCHQAT_INLINE float quotient_reciprocal(float scale) {
  const float reciprocal = 1.0f / scale;
  return reciprocal >= 0x1p-126f ? reciprocal : __builtin_nanf("");
}

// The same bits as round_even(x / scale). product differs from x / scale by at most |product| * 2^-22, and the quotient's
// own rounding moves it by half an ulp; the margin of 2^-21 covers both.
TORCHQAT_INLINE Vec rounded_quotient(Vec x, Vec scale, Vec reciprocal) {
  const Vec product = x * reciprocal, nearest = round_even(product);
  const Vec margin = Vec(0.5f) - lane_abs(product) * Vec(0x1p-21f);
  constexpr uint32_t all = (1u << Vec::size) - 1u;
  if (mask_bits(in_range(lane_abs(product - nearest), Vec(0.0f), margin)) == all) [[likely]] return nearest;
  return round_even(x / scale);
}

}  // namespace torchqat::numerics
