// Codes to the packed layout of groups and back. A dword holds the codes of one column at one line.
#include <cstring>

#include "cpu/kernels/linear_grouped.h"

namespace torchqat::cpu {
void grouped_pack(const GroupedLayout& w, const uint8_t* codes, uint8_t* packed, int64_t panel_begin, int64_t panel_end) {
  const int64_t quads = 8 / w.slot, line_k = 4 * quads, lines = w.group_padded / line_k;
  const uint32_t mask = (1u << w.slot) - 1, offset = static_cast<uint32_t>(w.offset);
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    for (int64_t c = 0; c < kGroupedColumns; ++c) {
      const int64_t column = p * kGroupedColumns + c;
      const uint8_t* row = codes + column * w.k;
      uint8_t* out = packed + p * w.panel_bytes + 4 * c;
      for (int64_t g = 0; g < w.groups; ++g) {
        const int64_t first = g * w.group, count = column < w.n ? std::min(w.group, w.k - first) : 0;
        for (int64_t l = 0; l < lines; ++l, out += kGroupedLine) {
          uint8_t padded[16];
          const uint8_t* source = row + first + l * line_k;
          if ((l + 1) * line_k > count) {
            std::memset(padded, 0, sizeof(padded));
            if (l * line_k < count) std::memcpy(padded, source, static_cast<size_t>(count - l * line_k));
            source = padded;
          }
          uint32_t dword = 0;
          for (int64_t j = 0; j < quads; ++j) {
            for (int64_t b = 0; b < 4; ++b) dword |= ((source[4 * j + b] + offset) & mask) << (8 * b + w.slot * j);
          }
          std::memcpy(out, &dword, 4);
        }
      }
    }
  }
}

void grouped_unpack(const GroupedLayout& w, const uint8_t* packed, uint8_t* codes, int64_t panel_begin,
                    int64_t panel_end) {
  const int64_t quads = 8 / w.slot, line_k = 4 * quads, lines = w.group_padded / line_k;
  const uint32_t mask = (1u << w.slot) - 1, offset = static_cast<uint32_t>(w.offset);
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    for (int64_t c = 0; c < std::min(kGroupedColumns, w.n - p * kGroupedColumns); ++c) {
      uint8_t* row = codes + (p * kGroupedColumns + c) * w.k;
      const uint8_t* in = packed + p * w.panel_bytes + 4 * c;
      for (int64_t g = 0; g < w.groups; ++g) {
        const int64_t first = g * w.group, count = std::min(w.group, w.k - first);
        for (int64_t l = 0; l < lines; ++l, in += kGroupedLine) {
          uint32_t dword;
          std::memcpy(&dword, in, 4);
          for (int64_t i = l * line_k; i < std::min(count, (l + 1) * line_k); ++i) {
            const int64_t at = i - l * line_k;
            const uint32_t u = (dword >> (8 * (at % 4) + w.slot * (at / 4))) & mask;
            row[first + i] = static_cast<uint8_t>(u - offset);
          }
        }
      }
    }
  }
}

}  // namespace torchqat::cpu
