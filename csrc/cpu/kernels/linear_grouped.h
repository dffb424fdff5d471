// Contracts of the linear kernels on weights in groups (numerics/grouped.h has the formulas). Every path gives the same
// bits, and a row's bits do not depend on the other rows.
#pragma once
#include "cpu/kernels/grouped_layout.h"

namespace torchqat::cpu {

// Codes [n, k] (int8, or uint8 for unsigned grids) -> panels [begin, end) of the packed form, and back.
void grouped_pack(const GroupedLayout& w, const uint8_t* codes, uint8_t* packed, int64_t panel_begin, int64_t panel_end);
void grouped_unpack(const GroupedLayout& w, const uint8_t* packed, uint8_t* codes, int64_t panel_begin, int64_t panel_end);

// Activations as u8 codes. Signed weight codes only; group_padded at most 32768.
struct GroupedInt8 {
  GroupedLayout w;
  const uint8_t* weight = nullptr;
  int64_t weight_most = 128;  // no code is larger in magnitude; at most w.offset
  GroupedScale scale;
  int64_t m = 0;
  const uint8_t* codes = nullptr;  // [m, lda], groups at multiples of group_padded
  int64_t lda = 0;
  const float* input_scale = nullptr;  // input_stride apart
  const int32_t* zero_point = nullptr;  // of the u8 codes
  int64_t input_stride = 0;            // 0: one for all rows, 1: one per row
  const uint8_t* nan_rows = nullptr;   // [m] or absent: where not 0, y is NaN
  const float* bias = nullptr;         // [n] or absent
  float* out = nullptr;                // [m, ldo]
  int64_t ldo = 0;
};

// Float activations.
struct GroupedFloat {
  GroupedLayout w;
  const uint8_t* weight = nullptr;
  GroupedScale scale;
  GroupedScale zero_point;             // float32; data absent: 0
  int64_t m = 0;
  const float* input = nullptr;        // [m, lda], groups at multiples of group_padded, padding 0
  int64_t lda = 0;
  const float* bias = nullptr;         // [n] or absent
  float* out = nullptr;                // [m, ldo]
  int64_t ldo = 0;
};

struct GroupedRange {
  int64_t row_begin, row_end, panel_begin, panel_end;
  uint8_t* scratch;  // aligned to 64, grouped_*_scratch() bytes, of this thread alone
};

constexpr int64_t kGroupedRowsAtOnce = 256;  // a longer range of rows is taken in parts

// Groups unpacked at a time: about 256 k, so that the unpacked block stays in the first-level cache.
TORCHQAT_INLINE int64_t grouped_block(const GroupedLayout& w) { return std::max<int64_t>(1, 256 / w.group_padded); }

// Rows that VNNI takes together: laid out for their tiles they stay in the second-level cache.
TORCHQAT_INLINE int64_t grouped_strip_rows(const GroupedLayout& w) {
  return std::clamp<int64_t>((int64_t{1} << 20) / std::max<int64_t>(1, w.k_padded()), 6, kGroupedRowsAtOnce);
}

// For ranges of at most `rows` rows.
TORCHQAT_INLINE int64_t grouped_int8_scratch(const GroupedLayout& w, int64_t rows) {
  const int64_t gemv = w.k_padded() + 64 + (w.groups + 16) * 4 + w.groups * kGroupedColumns * 4;
  if (rows <= 1) return gemv + 256;
  const int64_t some = std::min(rows, kGroupedRowsAtOnce) + 16;
  // Codes, sums and scales of a block, where AMX adds a zero point's four k and VNNI the scales of as many groups again;
  // totals and zero points of rows.
  const int64_t block = grouped_block(w) * (w.group_padded + 12) * kGroupedColumns + some * (kGroupedColumns * 4 + 4);
  // AMX: rows as tiles, 64 bytes per chunk, of at most 1 MiB or 16 rows.
  const int64_t row = w.groups * (w.group_padded / w.chunk) * 64;
  const int64_t tiles = std::min(some * row, std::max<int64_t>(1 << 20, 16 * row));
  // VNNI: rows as strips for tiles of six, and a word per group.
  const int64_t strips = (std::min(rows, grouped_strip_rows(w)) + 5) * (w.k_padded() + 4 * w.groups);
  return std::max(block + std::max(tiles, strips), gemv) + 256;
}

// k that many float rows decode at a time.
constexpr int64_t kFloatBlock = 64;

// Rows laid out for their tiles of six, at most 4 MiB of them: fewer would share a decoded block among too few.
TORCHQAT_INLINE int64_t float_strip_rows(const GroupedLayout& w) {
  const int64_t fit = (int64_t{4} << 20) / (4 * std::max<int64_t>(1, w.k_padded()));
  return std::clamp<int64_t>(fit / 6 * 6, 6, kGroupedRowsAtOnce / 6 * 6);
}

// For ranges of at most `rows` rows.
TORCHQAT_INLINE int64_t grouped_float_scratch(const GroupedLayout& w, int64_t rows) {
  const int64_t block = (kFloatBlock + 2 * kGroupedRowsAtOnce) * kGroupedColumns * 4;
  const int64_t strips = (std::min(rows, float_strip_rows(w)) + 5) * w.k_padded() * 4;
  return w.groups * kGroupedColumns * 4 * 2 + w.groups * kGroupedRowsAtOnce * 4 + block + strips + 256;
}

using GroupedInt8Fn = void (*)(const GroupedInt8&, const GroupedRange&);
using GroupedFloatFn = void (*)(const GroupedFloat&, const GroupedRange&);

void grouped_int8_scalar(const GroupedInt8&, const GroupedRange&);
void grouped_int8_avx2(const GroupedInt8&, const GroupedRange&);
void grouped_int8_avxvnni(const GroupedInt8&, const GroupedRange&);
void grouped_int8_avx512(const GroupedInt8&, const GroupedRange&);
void grouped_int8_amx(const GroupedInt8&, const GroupedRange&);

void grouped_float_scalar(const GroupedFloat&, const GroupedRange&);
void grouped_float_avx2(const GroupedFloat&, const GroupedRange&);
void grouped_float_avx512(const GroupedFloat&, const GroupedRange&);

}  // namespace torchqat::cpu
