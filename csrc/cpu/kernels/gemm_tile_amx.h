// AMX tile of 32 rows x 64 columns: two blocks of 16 rows by four of 16 columns, two columns' blocks at a time. The tile
// registers are configured for the row counts in hand and released when the object goes.
#pragma once
#include <algorithm>

#include "cpu/kernels/amx_products.h"
#include "cpu/kernels/panels.h"

namespace torchqat::cpu {
namespace {

struct AmxTile {
  static constexpr int64_t half = 16;

  AmxTile() = default;
  AmxTile(const AmxTile&) = delete;
  AmxTile& operator=(const AmxTile&) = delete;
  ~AmxTile() { _tile_release(); }

  // Registers 0-3: sums (row block x column block), 4-5: A, 6-7: B. A row count of 0 is configured as 1 and left unused.
  void configure(int64_t rows0, int64_t rows1) {
    if (rows0 == rows0_ && rows1 == rows1_) return;
    rows0_ = rows0;
    rows1_ = rows1;
    TileConfig config = TileConfig::whole();
    const auto first = static_cast<uint8_t>(rows0), second = static_cast<uint8_t>(rows1 > 0 ? rows1 : 1);
    const uint8_t rows[8] = {first, first, second, second, first, second, 16, 16};
    std::copy(rows, rows + 8, config.rows);
    config.load();
  }

  template <typename Op, bool both>
  static void columns32(const uint8_t* a0, const uint8_t* a1, int64_t lda, const uint8_t* b, int64_t steps,
                        int32_t* acc) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (both) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t s = 0; s < steps; s += 16, a0 += 64, a1 += 64, b += 64 * kPanelColumns) {
      _tile_loadd(6, b, 256);
      _tile_loadd(4, a0, lda);
      _tile_loadd(7, b + 64, 256);
      if constexpr (both) _tile_loadd(5, a1, lda);
      add_products<Op, 0>();
      add_products<Op, 1>();
      if constexpr (both) {
        add_products<Op, 2>();
        add_products<Op, 3>();
      }
    }
    constexpr int64_t stride = kPanelColumns * 4;
    _tile_stored(0, acc, stride);
    _tile_stored(1, acc + 16, stride);
    if constexpr (both) {
      _tile_stored(2, acc + half * kPanelColumns, stride);
      _tile_stored(3, acc + half * kPanelColumns + 16, stride);
    }
  }

  template <typename Op>
  void multiply(const uint8_t* a0, int64_t rows0, const uint8_t* a1, int64_t rows1, int64_t lda, const uint8_t* panel,
                int64_t steps, int32_t* acc) {
    configure(rows0, rows1);
    for (int64_t j = 0; j < kPanelColumns; j += 32) {
      if (rows1 > 0) {
        columns32<Op, true>(a0, a1, lda, panel + 4 * j, steps, acc + j);
      } else {
        columns32<Op, false>(a0, a1, lda, panel + 4 * j, steps, acc + j);
      }
    }
  }

 private:
  int64_t rows0_ = -1, rows1_ = -1;
};

}  // namespace
}  // namespace torchqat::cpu
