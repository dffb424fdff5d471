// The packed layout of weights in groups along K, one for all CPU paths. Panels of 64 columns (output features); in a
// panel the groups follow each other, each padded to whole lines:
//   [panel][group][line][64 columns][4 bytes]
// A line is 256 bytes and holds 4, 8 or 16 k of each column for codes of 8, 4 or 2 bits: byte b of a column's dword has,
// in its bits [slot * j, slot * (j + 1)), k = 4 * j + b of the line. So shifting and masking a line gives vectors of
// four successive k per column: the operand of VNNI, and a row of an AMX tile. Codes are stored with an offset, u = q +
// 2^(bits-1) (unsigned grids: none); padding is q = 0. 3-bit codes take slots of 4.
#pragma once
#include <algorithm>
#include <cstdint>

#include "numerics/config.h"

namespace torchqat::cpu {

constexpr int64_t kGroupedColumns = 64;
constexpr int64_t kGroupedLine = 4 * kGroupedColumns;

struct GroupedLayout {
  int64_t n = 0, k = 0, group = 1;
  int bits = 8, slot = 8, offset = 128;
  int64_t groups = 0, panels = 0;
  int64_t chunk = 64;         // a group is a whole number of chunks, of at most 64 k: what an AMX tile takes
  int64_t group_padded = 64;  // k per group with padding
  int64_t group_bytes = 0, panel_bytes = 0;

  int64_t k_padded() const { return groups * group_padded; }
  int64_t bytes() const { return panels * panel_bytes; }
};

// group_size may exceed k. Sizes must be >= 0, group_size >= 1, bits 2, 3, 4 or 8.
TORCHQAT_INLINE GroupedLayout grouped_layout(int64_t n, int64_t k, int64_t group_size, int bits, bool is_signed) {
  GroupedLayout w;
  w.n = n;
  w.k = k;
  w.bits = bits;
  w.slot = bits == 3 ? 4 : bits;
  w.offset = is_signed ? 1 << (bits - 1) : 0;
  w.group = std::min(group_size, std::max<int64_t>(k, 1));
  w.groups = (k + w.group - 1) / w.group;
  w.panels = (n + kGroupedColumns - 1) / kGroupedColumns;
  const int64_t line_k = 32 / w.slot, chunks = (w.group + 63) / 64;
  w.chunk = ((w.group + chunks - 1) / chunks + line_k - 1) / line_k * line_k;
  w.group_padded = chunks * w.chunk;
  w.group_bytes = w.group_padded * kGroupedColumns * w.slot / 8;
  w.panel_bytes = w.groups * w.group_bytes;
  return w;
}

enum class ScaleType : int { float32, bfloat16, float16 };

// Scales (or zero points) of all columns and groups: element [panel * panel_stride + group * group_stride + column *
// column_stride], column counted within the panel.
struct GroupedScale {
  const void* data = nullptr;
  ScaleType type = ScaleType::float32;
  int64_t panel_stride = 0, group_stride = 0, column_stride = 0;
};

}  // namespace torchqat::cpu
