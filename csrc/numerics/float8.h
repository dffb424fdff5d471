// Bit patterns of the 8-bit floats. The values are rounded by minifloat.h; here they are only written down.
#pragma once
#include "numerics/bits.h"
#include "numerics/float_format.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// value lies on the format's grid (sign, exponent and mantissa in eight bits), or is NaN: all ones but the sign.
TORCHQAT_INLINE uint8_t float8_bits(float value, const FormatSpec& f) {
  const uint32_t bits = bits_as<uint32_t>(value), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  const uint32_t smallest_normal = static_cast<uint32_t>(127 + f.min_exponent) << 23;
  // Below the normal numbers: a multiple of the smallest step.
  if (magnitude < smallest_normal) {
    const float unit = bits_as<float>(static_cast<uint32_t>(127 + f.min_exponent - f.mantissa_bits) << 23);
    return static_cast<uint8_t>(sign | static_cast<uint32_t>(bits_as<float>(magnitude) / unit));
  }
  return static_cast<uint8_t>((sign | ((magnitude - smallest_normal) >> (23 - f.mantissa_bits))) + (1u << f.mantissa_bits));
}

}  // namespace torchqat::numerics
