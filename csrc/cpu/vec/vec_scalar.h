// One lane: the reference path.
#pragma once

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

TORCHQAT_INLINE float widen(cpu::Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}
TORCHQAT_INLINE float widen(cpu::Half x) {
  _Float16 h;
  std::memcpy(&h, &x.bits, sizeof h);
  return static_cast<float>(h);
}
TORCHQAT_INLINE void narrow(float x, cpu::Bf16* p) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  p->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
TORCHQAT_INLINE void narrow(float x, cpu::Half* p) {
  const _Float16 h = static_cast<_Float16>(x);
  std::memcpy(&p->bits, &h, sizeof h);
}

struct Vec {
  static constexpr int size = 1;
  using Scalar = float;
  using Mask = bool;
  float v;
  Vec() = default;
  TORCHQAT_INLINE Vec(float x) : v(x) {}
  static TORCHQAT_INLINE Vec load(const float* p) { return *p; }
  static TORCHQAT_INLINE Vec load(const float* p, int) { return *p; }
  static TORCHQAT_INLINE Vec load(const cpu::Bf16* p) { return widen(*p); }
  static TORCHQAT_INLINE Vec load(const cpu::Half* p) { return widen(*p); }
  static TORCHQAT_INLINE Vec load(const uint8_t* p) { return load_u8(p); }
  static TORCHQAT_INLINE Vec load(const int8_t* p) { return load_s8(p); }
  static TORCHQAT_INLINE Vec load(const int16_t* p) { return static_cast<float>(*p); }
  static TORCHQAT_INLINE Vec load(const int32_t* p) { return load_s32(p); }
  static TORCHQAT_INLINE Mask from_bits(uint32_t bits) { return (bits & 1u) != 0; }
  static TORCHQAT_INLINE Vec load_u8(const uint8_t* p) { return static_cast<float>(*p); }
  static TORCHQAT_INLINE Vec load_s8(const int8_t* p) { return static_cast<float>(*p); }
  static TORCHQAT_INLINE Vec load_s32(const int32_t* p) { return static_cast<float>(*p); }
  // acc - factor * sum in wrapping int32, then converted.
  static TORCHQAT_INLINE Vec load_s32_minus(const int32_t* acc, const int32_t* sum, int32_t factor) {
    const uint32_t product = static_cast<uint32_t>(*sum) * static_cast<uint32_t>(factor);
    return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(*acc) - product));
  }
  // acc - what in wrapping int32, then converted.
  static TORCHQAT_INLINE Vec load_s32_minus(const int32_t* acc, int32_t what) {
    return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(*acc) - static_cast<uint32_t>(what)));
  }
  TORCHQAT_INLINE void store(float* p) const { *p = v; }
  TORCHQAT_INLINE void store(float* p, int) const { *p = v; }
  // Lanes must hold integers that fit the destination.
  TORCHQAT_INLINE void store_u8(uint8_t* p) const { *p = static_cast<uint8_t>(static_cast<int32_t>(v)); }
  TORCHQAT_INLINE void store_s8(int8_t* p) const { *p = static_cast<int8_t>(static_cast<int32_t>(v)); }
  TORCHQAT_INLINE void store_s32(int32_t* p) const { *p = static_cast<int32_t>(v); }
  TORCHQAT_INLINE void store(uint8_t* p) const { store_u8(p); }
  TORCHQAT_INLINE void store(int8_t* p) const { store_s8(p); }
  TORCHQAT_INLINE void store(int16_t* p) const { *p = static_cast<int16_t>(static_cast<int32_t>(v)); }
  TORCHQAT_INLINE void store(int32_t* p) const { store_s32(p); }
  // Rounded to nearest even; NaN stays NaN.
  TORCHQAT_INLINE void store(cpu::Bf16* p) const { narrow(v, p); }
  TORCHQAT_INLINE void store(cpu::Half* p) const { narrow(v, p); }
  // Past the cache where the instruction set can; the address is aligned to the vector.
  template <typename T>
  TORCHQAT_INLINE void stream(T* p) const { store(p); }
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
// The larger of numbers that are not negative, as integers: a NaN is larger than all.
TORCHQAT_INLINE Vec lane_max_bits(Vec a, Vec b) {
  int32_t x, y;
  std::memcpy(&x, &a.v, sizeof x);
  std::memcpy(&y, &b.v, sizeof y);
  return x > y ? a : b;
}
TORCHQAT_INLINE float reduce_min(Vec a) { return a.v; }
TORCHQAT_INLINE float reduce_max(Vec a) { return a.v; }

}  // namespace torchqat::numerics
