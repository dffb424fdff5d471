// Scalar forms of the lane operations that the formulas use: float and double here, SIMD vectors in cpu/vec.
// min and max keep x86's rule, a OP b ? a : b, so that a NaN in the second place survives on every path.
#pragma once
#include "numerics/config.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

TORCHQAT_INLINE float round_even(float x) { return ::rintf(x); }
TORCHQAT_INLINE double round_even(double x) { return ::rint(x); }
TORCHQAT_INLINE float lane_max(float a, float b) { return a > b ? a : b; }
TORCHQAT_INLINE double lane_max(double a, double b) { return a > b ? a : b; }
TORCHQAT_INLINE float lane_min(float a, float b) { return a < b ? a : b; }
TORCHQAT_INLINE double lane_min(double a, double b) { return a < b ? a : b; }
TORCHQAT_INLINE float lane_abs(float x) { return ::fabsf(x); }
TORCHQAT_INLINE double lane_abs(double x) { return ::fabs(x); }
TORCHQAT_INLINE bool in_range(float x, float low, float high) { return (low <= x) & (x <= high); }
TORCHQAT_INLINE bool in_range(double x, double low, double high) { return (low <= x) & (x <= high); }
TORCHQAT_INLINE bool is_nan(float x) { return x != x; }
TORCHQAT_INLINE bool is_nan(double x) { return x != x; }
TORCHQAT_INLINE float select(bool m, float a, float b) { return m ? a : b; }
TORCHQAT_INLINE double select(bool m, double a, double b) { return m ? a : b; }

}  // namespace torchqat::numerics
