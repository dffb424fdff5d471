// Integer lanes of the grouped kernels: one column.
#pragma once
#include <cstring>

#include "cpu/vec/vec.h"

namespace torchqat::cpu {
namespace {

struct Lanes {
  static constexpr int columns = 1, gemv_vectors = 1, tile_vectors = 1, tile_rows = 1, float_rows = 1, float_rows_decoded = 2;
  using Int = int32_t;
  using Bytes = uint32_t;  // four successive k of the column

  static TORCHQAT_INLINE Int zero() { return 0; }
  static TORCHQAT_INLINE Int broadcast(int32_t x) { return x; }
  static TORCHQAT_INLINE Bytes load_bytes(const uint8_t* p) {
    Bytes b;
    std::memcpy(&b, p, 4);
    return b;
  }
  static TORCHQAT_INLINE void store_bytes(uint8_t* p, Bytes b) { std::memcpy(p, &b, 4); }
  static TORCHQAT_INLINE void store(int32_t* p, Int x) { *p = x; }
  static TORCHQAT_INLINE Int load(const int32_t* p) { return *p; }
  static TORCHQAT_INLINE Bytes broadcast_bytes(uint8_t x) { return 0x01010101u * x; }
  template <int slot>
  static TORCHQAT_INLINE Bytes field(Bytes line, int j) {
    return slot == 8 ? line : (line >> (slot * j)) & (0x01010101u * ((1u << slot) - 1));
  }
  // No byte carries into the next.
  static TORCHQAT_INLINE Bytes add_bytes(Bytes a, Bytes b) { return a + b; }
  static TORCHQAT_INLINE Bytes subtract_bytes(Bytes a, Bytes b) {
    Bytes r = 0;
    for (int i = 0; i < 32; i += 8) r |= (((a >> i) - (b >> i)) & 0xffu) << i;
    return r;
  }
  // sum += u * s, byte by byte, u unsigned and s signed. narrow: |u * s| of a pair fits in 15 bits.
  template <bool narrow>
  static TORCHQAT_INLINE void dot(Int& sum, Bytes u, Bytes s) {
    for (int i = 0; i < 32; i += 8) sum += static_cast<int32_t>((u >> i) & 0xffu) * static_cast<int8_t>(s >> i);
  }
  static TORCHQAT_INLINE Int subtract(Int a, Int b) { return a - b; }
  static TORCHQAT_INLINE numerics::Vec to_float(Int x) { return static_cast<float>(x); }
  // sum - z * weight_sum, both in the split form of split_sum and split_zero_point.
  static TORCHQAT_INLINE Int split_sum(Int sum) {
    return static_cast<int32_t>(static_cast<uint32_t>(sum >> 7) << 16) | (sum & 127);
  }
  static TORCHQAT_INLINE void subtract_product(Int& sum, Int weight_sum, Int z) {
    sum += static_cast<int16_t>(weight_sum) * static_cast<int16_t>(z) + (weight_sum >> 16) * (z >> 16);
  }
  static TORCHQAT_INLINE numerics::Vec load_bf16(const uint16_t* p) {
    const uint32_t bits = static_cast<uint32_t>(*p) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  static TORCHQAT_INLINE numerics::Vec load_half(const uint16_t* p) {
    const int exponent = (*p >> 10) & 31, mantissa = *p & 1023;
    const float sign = (*p & 0x8000) != 0 ? -1.0f : 1.0f;
    if (exponent == 31) return sign * (mantissa == 0 ? HUGE_VALF : NAN);
    const float magnitude = exponent == 0 ? ::ldexpf(static_cast<float>(mantissa), -24)
                                          : ::ldexpf(static_cast<float>(mantissa + 1024), exponent - 25);
    return sign * magnitude;
  }
  static TORCHQAT_INLINE void prefetch(const uint8_t*) {}
  static TORCHQAT_INLINE void prefetch_far(const uint8_t*) {}

  // Codes as floats: bits [shift, shift + slot) of every dword, minus offset.
  template <int slot>
  struct Decoder {
    int32_t offset;
    explicit Decoder(int offset_) : offset(offset_) {}
    TORCHQAT_INLINE numerics::Vec operator()(Bytes line, int shift) const {
      return static_cast<float>(static_cast<int32_t>((line >> shift) & ((1u << slot) - 1)) - offset);
    }
  };
};

}  // namespace
}  // namespace torchqat::cpu
