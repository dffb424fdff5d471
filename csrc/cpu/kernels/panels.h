// The common layout of integer GEMMs. A: codes or limbs, one byte each, row-major with a row stride that is a multiple
// of 64; bytes beyond K are anything, because the panels hold zeros there. B: panels of 64 columns,
// [n_padded / 64][k_padded / 4][64][4] with n_padded and k_padded multiples of 64: four successive k of a column lie
// together, which is what VNNI (a 64-byte row is 16 columns) and AMX (a tile of 16 rows, stride 256) both read.
#pragma once
#include <algorithm>
#include <cstdint>

#include "numerics/config.h"

namespace torchqat::cpu {

constexpr int64_t kPanelColumns = 64;
// K beyond this is summed in segments, each converted and added in float32: 65536 * 255 * 128 fits in int32.
constexpr int64_t kSegment = 65536;

// Results of this many elements are written past the cache: they would push the operands out of it, and to read their lines
// before writing them would cost as much as the writing.
constexpr int64_t kStreamedSize = 1 << 20;

TORCHQAT_INLINE int64_t padded64(int64_t size) { return (size + 63) / 64 * 64; }
TORCHQAT_INLINE int64_t segment_count(int64_t k) { return k <= kSegment ? 1 : (k + kSegment - 1) / kSegment; }

}  // namespace torchqat::cpu
