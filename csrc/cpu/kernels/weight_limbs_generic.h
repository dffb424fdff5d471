// Limbs of a weight in groups, compiled once per instruction set. Sixteen columns at a time; those that a row has not whole are
// read through a padded copy.
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

// Sixteen columns from `first` on, of any row.
class CodeColumns {
 public:
  TORCHQAT_INLINE CodeColumns(const GroupedCodes& w, int64_t first)
      : w_(w), first_(first), count_(std::clamp<int64_t>(w.k - first, 0, kLimbColumns)), groups_((w.k + w.group - 1) / w.group) {
    group_ = count_ == 0 ? 0 : first / w.group;
    one_group_ = count_ == 0 || (first + count_ - 1) / w.group == group_;
  }

  // f(offset of Vec::size columns, their q * s).
  template <typename F>
  TORCHQAT_INLINE void dequantise(int64_t row, F f) const {
    const int8_t* q = w_.codes + row * w_.k + first_;
    int8_t padded[kLimbColumns] = {};
    if (count_ < kLimbColumns) {
      if (count_ > 0) std::memcpy(padded, q, static_cast<size_t>(count_));
      q = padded;
    }
    const float* s = w_.scale + row * groups_;
    if (one_group_) {
      const Vec scale(s[group_]);
      for (int l = 0; l < kLimbColumns; l += Vec::size) f(l, Vec::load(q + l) * scale);
      return;
    }
    alignas(64) float scale[kLimbColumns] = {};
    for (int64_t l = 0; l < count_; ++l) scale[l] = s[(first_ + l) / w_.group];
    for (int l = 0; l < kLimbColumns; l += Vec::size) f(l, Vec::load(q + l) * Vec::load(scale + l));
  }

 private:
  const GroupedCodes& w_;
  int64_t first_, count_, groups_, group_;
  bool one_group_;
};

TORCHQAT_INLINE void largest_of_columns(const GroupedCodes& w, float* largest, int64_t panel_begin, int64_t panel_end) {
  const int64_t begin = panel_begin * kPanelColumns, end = panel_end * kPanelColumns;
  std::fill(largest + begin, largest + end, 0.0f);
  // A few rows at a time: what belongs to the columns is found once for them.
  constexpr int64_t kRows = 16;
  for (int64_t i = 0; i < w.n; i += kRows) {
    for (int64_t j = begin; j < end; j += kLimbColumns) {
      const CodeColumns columns(w, j);
      for (int64_t row = i; row < std::min(w.n, i + kRows); ++row) {
        columns.dequantise(row, [&](int l, Vec value) __attribute__((always_inline)) {
          numerics::lane_max_bits(lane_abs(value), Vec::load(largest + j + l)).store(largest + j + l);
        });
      }
    }
  }
}

TORCHQAT_INLINE void weight_limbs_to_panels(const GroupedCodes& w, const float* inverse, uint8_t* out, int64_t panel_begin,
                                            int64_t panel_end) {
  const int64_t lines = padded64(w.n), plane = lines * kPanelColumns;
  for (int64_t i = 0; i < lines; i += 4) {
    for (int64_t j = panel_begin * kPanelColumns; j < panel_end * kPanelColumns; j += kLimbColumns) {
      alignas(64) int32_t value[4][kLimbColumns] = {};
      const CodeColumns columns(w, j);
      for (int64_t t = 0; t < std::min<int64_t>(4, w.n - i); ++t) {
        columns.dequantise(i + t, [&](int l, Vec weight) __attribute__((always_inline)) {
          numerics::limb_value(weight, Vec::load(inverse + j + l)).store_s32(value[t] + l);
        });
      }
      // With 128 for each limb a 16-bit number's bytes are the limbs.
      alignas(64) uint32_t high[kLimbColumns], low[kLimbColumns];
      for (int l = 0; l < kLimbColumns; ++l) {
        uint32_t v[4];
        for (int t = 0; t < 4; ++t) v[t] = static_cast<uint32_t>(value[t][l] + 128 * 256 + 128);
        high[l] = v[0] >> 8 | (v[1] & 0xff00u) | (v[2] & 0xff00u) << 8 | (v[3] & 0xff00u) << 16;
        low[l] = (v[0] & 0xffu) | (v[1] & 0xffu) << 8 | (v[2] & 0xffu) << 16 | v[3] << 24;
      }
      uint8_t* to = out + (j / kPanelColumns - panel_begin) * 2 * plane + i * kPanelColumns + j % kPanelColumns * 4;
      std::memcpy(to, high, sizeof high);
      std::memcpy(to + plane, low, sizeof low);
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
