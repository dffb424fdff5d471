// Packing codes to bits and back, eight at a time.
#include "cpu/kernels/packing.h"

#include <cstring>

#include "numerics/packing.h"

namespace torchqat::cpu {
namespace {

template <int bits>
void pack(const uint8_t* codes, int64_t count, uint8_t* stream) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8, stream += bits) {
    const uint64_t word = numerics::pack_eight<bits>(codes + i);
    std::memcpy(stream, &word, bits);
  }
  if (i == count) return;
  uint8_t rest[8] = {};
  std::memcpy(rest, codes + i, static_cast<size_t>(count - i));
  const uint64_t word = numerics::pack_eight<bits>(rest);
  std::memcpy(stream, &word, static_cast<size_t>(numerics::packed_bytes(count - i, bits)));
}

template <int bits, bool is_signed>
void unpack(const uint8_t* stream, int64_t count, uint8_t* codes) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8, stream += bits) {
    uint64_t word = 0;
    std::memcpy(&word, stream, bits);
    numerics::unpack_eight<bits, is_signed>(word, codes + i);
  }
  if (i == count) return;
  uint64_t word = 0;
  std::memcpy(&word, stream, static_cast<size_t>(numerics::packed_bytes(count - i, bits)));
  uint8_t rest[8];
  numerics::unpack_eight<bits, is_signed>(word, rest);
  std::memcpy(codes + i, rest, static_cast<size_t>(count - i));
}

template <int bits>
void unpack(const uint8_t* stream, int64_t count, bool is_signed, uint8_t* codes) {
  is_signed ? unpack<bits, true>(stream, count, codes) : unpack<bits, false>(stream, count, codes);
}

}  // namespace

void pack_codes(const uint8_t* codes, int64_t count, int bits, uint8_t* stream) {
  switch (bits) {
    case 1: return pack<1>(codes, count, stream);
    case 2: return pack<2>(codes, count, stream);
    case 3: return pack<3>(codes, count, stream);
    case 4: return pack<4>(codes, count, stream);
    default: return pack<8>(codes, count, stream);
  }
}

void unpack_codes(const uint8_t* stream, int64_t count, int bits, bool is_signed, uint8_t* codes) {
  switch (bits) {
    case 1: return unpack<1>(stream, count, is_signed, codes);
    case 2: return unpack<2>(stream, count, is_signed, codes);
    case 3: return unpack<3>(stream, count, is_signed, codes);
    case 4: return unpack<4>(stream, count, is_signed, codes);
    default: return unpack<8>(stream, count, is_signed, codes);
  }
}

}  // namespace torchqat::cpu
