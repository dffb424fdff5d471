// Limbs of a weight in groups, compiled once per instruction set. Sixteen columns at a time; those that are not whole or not of
// one group are read through a padded copy.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/panels.h"
#include "cpu/kernels/weight_limbs.h"
#include "cpu/vec/vec.h"
#include "numerics/limbs.h"

namespace torchqat::cpu {
namespace {

using numerics::Vec;

constexpr int kLimbColumns = 16;

// Sixteen columns, of any row: what does not depend on the row is found once, for its divisions take long.
struct CodeColumns {
  GroupedCodes w;
  int64_t first = 0, count = 0, groups = 0, group = 0;
  bool plain = false;

  CodeColumns() = default;
  TORCHQAT_INLINE CodeColumns(const GroupedCodes& weight, int64_t column)
      : w(weight), first(column), count(std::clamp<int64_t>(w.k - column, 0, kLimbColumns)), groups((w.k + w.group - 1) / w.group),
        group(column / w.group), plain(count == kLimbColumns && (column + kLimbColumns - 1) / w.group == group) {}

  TORCHQAT_INLINE void expect(int64_t row) const {
    __builtin_prefetch(w.codes + row * w.k + first);
    __builtin_prefetch(w.scale + row * groups + group);
  }

  // q * s of Vec::size columns from `at` on.
  TORCHQAT_INLINE Vec dequantised(int64_t row, int at) const {
    const int8_t* q = w.codes + row * w.k + first + at;
    const float* s = w.scale + row * groups;
    if (plain) return Vec::load(q) * Vec(s[group]);
    int8_t codes[Vec::size] = {};
    alignas(64) float scale[Vec::size] = {};
    for (int64_t l = at; l < std::min<int64_t>(count, at + Vec::size); ++l) {
      codes[l - at] = q[l - at];
      scale[l - at] = s[(first + l) / w.group];
    }
    return Vec::load(codes) * Vec::load(scale);
  }
};

TORCHQAT_INLINE void largest_of_columns(const GroupedCodes& w, float* largest, int64_t panel_begin, int64_t panel_end) {
  const int64_t begin = panel_begin * kPanelColumns, end = panel_end * kPanelColumns;
  constexpr int64_t kRows = 64;
  std::fill(largest + begin, largest + end, 0.0f);
  for (int64_t i = 0; i < w.n; i += kRows) {
    for (int64_t j = begin; j < end; j += kLimbColumns) {
      const CodeColumns columns(w, j);
      for (int l = 0; l < kLimbColumns; l += Vec::size) {
        Vec most = Vec::load(largest + j + l);
        for (int64_t row = i; row < std::min(w.n, i + kRows); ++row) {
          most = numerics::lane_max_bits(lane_abs(columns.dequantised(row, l)), most);
        }
        most.store(largest + j + l);
      }
    }
  }
}

// Four lines of sixteen columns. With 128 for each limb a 16-bit number's bytes are the limbs.
TORCHQAT_INLINE void limbs_of_lines(const CodeColumns& columns, const float* inverse, int64_t line, uint8_t* high, uint8_t* low) {
  alignas(64) int32_t value[4][kLimbColumns];
  for (int t = 0; t < 4; ++t) {
    for (int l = 0; l < kLimbColumns; l += Vec::size) {
      const Vec weight = line + t < columns.w.n ? columns.dequantised(line + t, l) : Vec(0.0f);
      numerics::limb_value(weight, Vec::load(inverse + l)).store_s32(value[t] + l);
    }
  }
  alignas(64) uint32_t highs[kLimbColumns], lows[kLimbColumns];
  for (int l = 0; l < kLimbColumns; ++l) {
    uint32_t v[4];
    for (int t = 0; t < 4; ++t) v[t] = static_cast<uint32_t>(value[t][l] + 128 * 256 + 128);
    highs[l] = v[0] >> 8 | (v[1] & 0xff00u) | (v[2] & 0xff00u) << 8 | (v[3] & 0xff00u) << 16;
    lows[l] = (v[0] & 0xffu) | (v[1] & 0xffu) << 8 | (v[2] & 0xffu) << 16 | v[3] << 24;
  }
  std::memcpy(high, highs, sizeof highs);
  std::memcpy(low, lows, sizeof lows);
}

TORCHQAT_INLINE void weight_limbs_to_panels(const GroupedCodes& w, const float* inverse, uint8_t* out, int64_t panel_begin,
                                            int64_t panel_end) {
  // So many panels together: a row's codes then come from whole runs of lines.
  // Lines far apart are not foreseen by the processor.
  constexpr int64_t kAhead = 32;
  constexpr int64_t kPanels = 4, kParts = kPanelColumns / kLimbColumns;
  const int64_t lines = padded64(w.n), plane = lines * kPanelColumns;
  for (int64_t p = panel_begin; p < panel_end; p += kPanels) {
    const int64_t parts = std::min(kPanels, panel_end - p) * kParts;
    CodeColumns columns[kPanels * kParts];
    for (int64_t part = 0; part < parts; ++part) columns[part] = CodeColumns(w, p * kPanelColumns + part * kLimbColumns);
    for (int64_t i = 0; i < lines; i += 4) {
      for (int64_t t = i + kAhead; t < std::min(w.n, i + kAhead + 4); ++t) {
        for (int64_t part = 0; part < parts; part += kParts) columns[part].expect(t);
      }
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t within = part % kParts * kLimbColumns;
        uint8_t* to = out + (p - panel_begin + part / kParts) * 2 * plane + i * kPanelColumns + within * 4;
        limbs_of_lines(columns[part], inverse + columns[part].first, i, to, to + plane);
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
