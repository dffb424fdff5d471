// One lane of double with Vec's interface, for the kernels of float64 tensors.
#pragma once

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

struct Wide {
  static constexpr int size = 1;
  using Scalar = double;
  using Mask = bool;
  double v;
  Wide() = default;
  TORCHQAT_INLINE Wide(double x) : v(x) {}
  template <typename T>
  static TORCHQAT_INLINE Wide load(const T* p) { return static_cast<double>(*p); }
  TORCHQAT_INLINE void store(double* p) const { *p = v; }
  // Integer destinations: the value must be an integer that fits.
  template <typename T>
  TORCHQAT_INLINE void store(T* p) const { *p = static_cast<T>(static_cast<int64_t>(v)); }
  TORCHQAT_INLINE void stream(double* p) const { *p = v; }
  static TORCHQAT_INLINE Mask from_bits(uint32_t bits) { return (bits & 1u) != 0; }
};

TORCHQAT_INLINE Wide operator+(Wide a, Wide b) { return a.v + b.v; }
TORCHQAT_INLINE Wide operator-(Wide a, Wide b) { return a.v - b.v; }
TORCHQAT_INLINE Wide operator*(Wide a, Wide b) { return a.v * b.v; }
TORCHQAT_INLINE Wide operator/(Wide a, Wide b) { return a.v / b.v; }
TORCHQAT_INLINE Wide round_even(Wide a) { return round_even(a.v); }
TORCHQAT_INLINE Wide lane_max(Wide a, Wide b) { return lane_max(a.v, b.v); }
TORCHQAT_INLINE Wide lane_min(Wide a, Wide b) { return lane_min(a.v, b.v); }
TORCHQAT_INLINE Wide lane_abs(Wide a) { return lane_abs(a.v); }
TORCHQAT_INLINE bool in_range(Wide x, Wide low, Wide high) { return in_range(x.v, low.v, high.v); }
TORCHQAT_INLINE bool is_nan(Wide x) { return is_nan(x.v); }
TORCHQAT_INLINE Wide select(bool m, Wide a, Wide b) { return m ? a.v : b.v; }
TORCHQAT_INLINE uint32_t mask_bits(bool m) { return m; }
TORCHQAT_INLINE double reduce_min(Wide a) { return a.v; }
TORCHQAT_INLINE double reduce_max(Wide a) { return a.v; }

}  // namespace torchqat::numerics
