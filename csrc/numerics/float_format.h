// The names and constants of the float grids. Data only, shared by files of every instruction set.
#pragma once

namespace torchqat::numerics {

// OCP 8-bit floating point (e4m3fn has no infinity, e5m2's infinities are not used) and OCP MX element formats.
enum class FloatFormat : int { e4m3fn = 0, e5m2 = 1, e3m2 = 2, e2m3 = 3, e2m1 = 4 };

struct FormatSpec {
  const char* name;
  int mantissa_bits;
  int min_exponent;  // of the smallest normal number; subnormals reach mantissa_bits below
  int max_exponent;
  double largest;    // largest finite value
};

inline constexpr FormatSpec format_specs[] = {
  {"e4m3fn", 3, -6, 8, 448.0}, {"e5m2", 2, -14, 15, 57344.0}, {"e3m2", 2, -2, 4, 28.0},
  {"e2m3", 3, 0, 2, 7.5},      {"e2m1", 1, 0, 2, 6.0},
};

// How a block's largest magnitude becomes its power-of-two scale (OCP MX v1.0 asks for floor).
enum class ScaleRounding : int { floor = 0, rceil = 1, ceil = 2, even = 3 };
inline constexpr const char* scale_rounding_names[] = {"floor", "rceil", "ceil", "even"};

}  // namespace torchqat::numerics
