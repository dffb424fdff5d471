// Operands of block-scaled products on tensor cores, from values that lie on an MX or NVFP4 grid already: the block's scale, and
// where it lies in the layout that the hardware reads.
#pragma once
#include <cstdint>

#include "numerics/bits.h"
#include "numerics/float8.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// A power of two >= 2^-127 that puts every value of the block exactly on the grid of f, from the largest magnitude. Values of a
// narrower MX format have their exact place on e4m3fn's grid too. The scale they were rounded with need not be known: the one found
// here is never larger, and so its grid never coarser.
TORCHQAT_INLINE float carrier_scale(float amax, const FormatSpec& f) {
  float scale = exponent_power(amax) * bits_as<float>(static_cast<uint32_t>(127 - f.max_exponent) << 23);
  scale = scale > 0x1p-127f ? scale : 0x1p-127f;
  return amax > static_cast<float>(f.largest) * scale ? scale + scale : scale;
}

// The eight bits of e8m0 for a power of two in [2^-127, 2^127].
TORCHQAT_INLINE uint8_t e8m0_bits(float scale) { return static_cast<uint8_t>(bits_as<uint32_t>(scale) >> 23); }

// Sign, two bits of exponent, one of mantissa of a value on the grid of e2m1.
TORCHQAT_INLINE uint32_t float4_bits(float value, const FormatSpec& e2m1) {
  const uint32_t bits = float8_bits(value, e2m1);
  return (bits & 7u) | (bits >> 4 & 8u);
}

// Scales lie in tiles of 128 rows x 4 blocks, tiles in row-major order; in a tile 32 runs of 16 bytes, run i holding the four blocks
// of the rows i, i + 32, i + 64 and i + 96. tiles: of four blocks, in a row.
TORCHQAT_INLINE int64_t swizzled_scale(int64_t row, int64_t block, int64_t tiles) {
  return ((row / 128 * tiles + block / 4) * 32 + row % 32) * 16 + row % 128 / 32 * 4 + block % 4;
}

}  // namespace torchqat::numerics
