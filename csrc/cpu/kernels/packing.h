// Contract of packing codes to bits and back (numerics/packing.h has the bit order). Plain loops: they run at loading
// and saving, near the speed of memory.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

// codes [count], one byte each -> stream [packed_bytes(count, bits)]. bits: 1, 2, 3, 4, 8.
void pack_codes(const uint8_t* codes, int64_t count, int bits, uint8_t* stream);

// The opposite; signed codes are sign-extended to int8.
void unpack_codes(const uint8_t* stream, int64_t count, int bits, bool is_signed, uint8_t* codes);

}  // namespace torchqat::cpu
