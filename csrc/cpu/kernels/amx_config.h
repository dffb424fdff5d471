// How the AMX tile registers are set up: rows and bytes of a row of each. Included by ISA files.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace torchqat::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Every register whole: 16 rows of 64 bytes.
  static TileConfig whole() {
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = 64;
      config.rows[t] = 16;
    }
    return config;
  }

  void load() const {
    // The intrinsic names 8 of the 64 bytes as read: without this gcc 12 may drop the others' stores.
    asm volatile("" : : "r"(this) : "memory");
    _tile_loadconfig(this);
  }
};

}  // namespace
}  // namespace torchqat::cpu
