// The canonical bit order of small codes, in files and in packed buffers: one little-endian stream of bits. Code i takes
// bits [i * bits, (i + 1) * bits); bit j of the stream is bit j % 8 of byte j / 8. A code is stored as its lowest bits
// (two's complement when signed); what is left of the last byte is 0. Eight codes take exactly `bits` bytes.
#pragma once
#include "numerics/config.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

TORCHQAT_INLINE bool is_packable(int64_t bits) {
  return bits == 1 || bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

TORCHQAT_INLINE int64_t packed_bytes(int64_t count, int64_t bits) { return (count * bits + 7) / 8; }

TORCHQAT_INLINE int32_t code_mask(int bits) { return (1 << bits) - 1; }

// The lowest bits of a stored code, read as two's complement.
TORCHQAT_INLINE int32_t signed_code(int32_t stored, int bits) {
  const int32_t half = 1 << (bits - 1);
  return ((stored & code_mask(bits)) ^ half) - half;
}

// Code i of a stream; a code of 3 bits may reach into a second byte.
TORCHQAT_INLINE int32_t stored_code(const uint8_t* stream, int64_t i, int bits) {
  const int64_t bit = i * bits;
  const int shift = static_cast<int>(bit & 7);
  int32_t window = stream[bit >> 3];
  if (shift + bits > 8) window |= stream[(bit >> 3) + 1] << 8;
  return (window >> shift) & code_mask(bits);
}

// Eight codes to and from the low `bits` bytes of a word.
template <int bits>
TORCHQAT_INLINE uint64_t pack_eight(const uint8_t* codes) {
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) word |= static_cast<uint64_t>(codes[i] & code_mask(bits)) << (bits * i);
  return word;
}

template <int bits, bool is_signed>
TORCHQAT_INLINE void unpack_eight(uint64_t word, uint8_t* codes) {
  for (int i = 0; i < 8; ++i) {
    const auto stored = static_cast<int32_t>(word >> (bits * i)) & code_mask(bits);
    codes[i] = static_cast<uint8_t>(is_signed ? signed_code(stored, bits) : stored);
  }
}

}  // namespace torchqat::numerics
