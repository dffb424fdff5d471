// One lane: the reference path.
#pragma once

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

struct Vec {
  static constexpr int size = 1;
  using Mask = bool;
  float v;
  Vec() = default;
  TORCHQAT_INLINE Vec(float x) : v(x) {}
  static TORCHQAT_INLINE Vec load(const float* p) { return *p; }
  static TORCHQAT_INLINE Vec load(const float* p, int) { return *p; }
  static TORCHQAT_INLINE Vec load_u8(const uint8_t* p) { return static_cast<float>(*p); }
  static TORCHQAT_INLINE Vec load_s8(const int8_t* p) { return static_cast<float>(*p); }
  static TORCHQAT_INLINE Vec load_s32(const int32_t* p) { return static_cast<float>(*p); }
  TORCHQAT_INLINE void store(float* p) const { *p = v; }
  TORCHQAT_INLINE void store(float* p, int) const { *p = v; }
  // Lanes must hold integers that fit the destination.
  TORCHQAT_INLINE void store_u8(uint8_t* p) const { *p = static_cast<uint8_t>(static_cast<int32_t>(v)); }
  TORCHQAT_INLINE void store_s8(int8_t* p) const { *p = static_cast<int8_t>(static_cast<int32_t>(v)); }
  TORCHQAT_INLINE void store_s32(int32_t* p) const { *p = static_cast<int32_t>(v); }
};

TORCHQAT_INLINE Vec operator+(Vec a, Vec b) { return a.v + b.v; }
TORCHQAT_INLINE Vec operator-(Vec a, Vec b) { return a.v - b.v; }
TORCHQAT_INLINE Vec operator*(Vec a, Vec b) { return a.v * b.v; }
TORCHQAT_INLINE Vec operator/(Vec a, Vec b) { return a.v / b.v; }
TORCHQAT_INLINE Vec round_even(Vec a) { return round_even(a.v); }
TORCHQAT_INLINE Vec lane_max(Vec a, Vec b) { return lane_max(a.v, b.v); }
TORCHQAT_INLINE Vec lane_min(Vec a, Vec b) { return lane_min(a.v, b.v); }
TORCHQAT_INLINE Vec lane_abs(Vec a) { return lane_abs(a.v); }
TORCHQAT_INLINE Vec lane_fma(Vec a, Vec b, Vec c) { return __builtin_fmaf(a.v, b.v, c.v); }
TORCHQAT_INLINE bool in_range(Vec x, Vec low, Vec high) { return in_range(x.v, low.v, high.v); }
TORCHQAT_INLINE bool is_nan(Vec x) { return is_nan(x.v); }
TORCHQAT_INLINE Vec select(bool m, Vec a, Vec b) { return m ? a.v : b.v; }
// Bit i is lane i.
TORCHQAT_INLINE uint32_t mask_bits(bool m) { return m; }

}  // namespace torchqat::numerics
