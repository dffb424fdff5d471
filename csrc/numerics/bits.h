// Lane operations on the bit pattern of a floating value; the SIMD forms are in cpu/vec/vec_bits.h.
#pragma once
#include <cstring>

#include "numerics/config.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

template <typename To, typename From>
TORCHQAT_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// The largest power of two <= |x|; 0 for a subnormal or zero, infinity for an infinity or NaN.
TORCHQAT_INLINE float exponent_power(float x) { return bits_as<float>(bits_as<uint32_t>(x) & 0x7f800000u); }
TORCHQAT_INLINE double exponent_power(double x) {
  return bits_as<double>(bits_as<uint64_t>(x) & 0x7ff0000000000000ull);
}

// magnitude >= 0 (or NaN) with the sign of x.
TORCHQAT_INLINE float with_sign(float magnitude, float x) {
  return bits_as<float>(bits_as<uint32_t>(magnitude) | (bits_as<uint32_t>(x) & 0x80000000u));
}
TORCHQAT_INLINE double with_sign(double magnitude, double x) {
  return bits_as<double>(bits_as<uint64_t>(magnitude) | (bits_as<uint64_t>(x) & 0x8000000000000000ull));
}

// 2^n for an integral n with a normal result.
TORCHQAT_INLINE float power_of_two(float n) { return bits_as<float>(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23); }
TORCHQAT_INLINE double power_of_two(double n) { return bits_as<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52); }

// Maximum of values without a sign bit by their bit pattern: finite < infinity < NaN, so a NaN is never lost.
TORCHQAT_INLINE float bits_max(float a, float b) { return bits_as<uint32_t>(a) > bits_as<uint32_t>(b) ? a : b; }
TORCHQAT_INLINE double bits_max(double a, double b) { return bits_as<uint64_t>(a) > bits_as<uint64_t>(b) ? a : b; }

}  // namespace torchqat::numerics
