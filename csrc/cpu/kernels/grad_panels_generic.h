// Backward panels byte by byte: the plain way, which compilers vectorise well enough.
#pragma once
#include <cstring>

#include "cpu/kernels/grad_panels.h"
#include "cpu/kernels/panels.h"

namespace torchqat::cpu {
namespace {

TORCHQAT_INLINE void plain_codes_to_panels(const uint8_t* codes, int64_t rows, int64_t ld, uint8_t* out,
                                           int64_t panel_begin, int64_t panel_end) {
  const int64_t lines = padded64(rows);
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    uint8_t* panel = out + p * kPanelColumns * lines;
    for (int64_t i = 0; i < lines; i += 4, panel += 4 * kPanelColumns) {
      for (int64_t t = 0; t < 4; ++t) {
        if (i + t < rows) {
          const uint8_t* row = codes + (i + t) * ld + p * kPanelColumns;
          for (int64_t j = 0; j < kPanelColumns; ++j) panel[4 * j + t] = row[j];
        } else {
          for (int64_t j = 0; j < kPanelColumns; ++j) panel[4 * j + t] = 0;
        }
      }
    }
  }
}

// Forward: [n / 64][k / 4][64 n][4 k]; here [k / 64][n / 4][64 k][4 n].
TORCHQAT_INLINE void plain_weight_to_panels(const int8_t* panels, int64_t n, int64_t k, uint8_t* out,
                                            int64_t panel_begin, int64_t panel_end) {
  const int64_t lines = padded64(n), k_padded = padded64(k);
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    for (int64_t line = 0; line < lines; ++line) {
      const int8_t* source = panels + line / 64 * 64 * k_padded + p * 64 * 64 + line % 64 * 4;
      uint8_t* target = out + p * 64 * lines + line / 4 * 256 + line % 4;
      for (int64_t j = 0; j < 64; ++j) target[4 * j] = static_cast<uint8_t>(source[j / 4 * 256 + j % 4] + 128);
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
