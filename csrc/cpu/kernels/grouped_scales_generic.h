// Reading the scales of a panel: by whole vectors where columns lie together, else gathered once into a float block.
#pragma once
#include "cpu/kernels/grouped_layout.h"
#include "cpu/vec/vec.h"
#include "numerics/grouped.h"

namespace torchqat::cpu {
namespace {

TORCHQAT_INLINE numerics::Vec load_scale(const GroupedScale& s, int64_t index) {
  switch (s.type) {
    case ScaleType::bfloat16: return Lanes::load_bf16(static_cast<const uint16_t*>(s.data) + index);
    case ScaleType::float16: return Lanes::load_half(static_cast<const uint16_t*>(s.data) + index);
    default: return numerics::Vec::load(static_cast<const float*>(s.data) + index);
  }
}

TORCHQAT_INLINE const uint8_t* scale_address(const GroupedScale& s, int64_t index) {
  return static_cast<const uint8_t*>(s.data) + index * (s.type == ScaleType::float32 ? 4 : 2);
}

// Every line of `count` scales that lie together: one left out costs as much as all of them.
template <int count>
TORCHQAT_INLINE void prefetch_scales(const GroupedScale& s, int64_t index) {
  const uint8_t* p = scale_address(s, index);
  Lanes::prefetch_far(p);
  if (count > 32) Lanes::prefetch_far(p + 64);
  if (count > 16 && s.type == ScaleType::float32) {
    Lanes::prefetch_far(p + 64 * (count / 32));
    if (count > 32) Lanes::prefetch_far(p + 192);
  }
}

TORCHQAT_INLINE bool is_panel_full(const GroupedLayout& w, int64_t panel) { return (panel + 1) * kGroupedColumns <= w.n; }

// Columns may be read 64 at a time, also where they reach beyond n.
TORCHQAT_INLINE bool is_direct(const GroupedLayout& w, const GroupedScale& s, int64_t panel) {
  return s.column_stride == 1 && is_panel_full(w, panel);
}

// Groups [begin, end) of a panel into [end - begin][64] floats, 0 beyond n.
inline void gather_scales(const GroupedLayout& w, const GroupedScale& s, int64_t panel, int64_t begin, int64_t end,
                          float* out) {
  using numerics::Vec;
  const int64_t base = panel * s.panel_stride, count = std::min(kGroupedColumns, w.n - panel * kGroupedColumns);
  const bool direct = is_direct(w, s, panel);
  for (int64_t g = begin; g < end; ++g, out += kGroupedColumns) {
    const int64_t at = base + g * s.group_stride;
    if (direct) {
      for (int64_t j = 0; j < kGroupedColumns; j += Vec::size) load_scale(s, at + j).store(out + j);
      continue;
    }
    for (int64_t j = 0; j < kGroupedColumns; ++j) out[j] = 0.0f;
    if (s.type == ScaleType::float32) {
      for (int64_t j = 0; j < count; ++j) out[j] = static_cast<const float*>(s.data)[at + j * s.column_stride];
      continue;
    }
    uint16_t raw[2 * kGroupedColumns] = {};  // twice the size: gcc looks at the float32 case of load_scale too
    for (int64_t j = 0; j < count; ++j) raw[j] = static_cast<const uint16_t*>(s.data)[at + j * s.column_stride];
    GroupedScale local;
    local.data = raw;
    local.type = s.type;
    for (int64_t j = 0; j < kGroupedColumns; j += Vec::size) load_scale(local, j).store(out + j);
  }
}

TORCHQAT_INLINE int64_t round_up64(int64_t x) { return (x + 63) / 64 * 64; }

// One row of a panel from its 64 totals (aligned): y = t * s_x + b, the first columns only where the panel is short.
TORCHQAT_INLINE void store_row(const float* total, const float* bias, bool scaled, float input_scale, int64_t count,
                               float* out) {
  using numerics::Vec;
  alignas(64) float y[kGroupedColumns], b[kGroupedColumns];
  const bool full = count == kGroupedColumns;
  if (bias != nullptr && !full) {
    for (int64_t j = 0; j < kGroupedColumns; ++j) b[j] = j < count ? bias[j] : 0.0f;
    bias = b;
  }
  float* target = full ? out : y;
  for (int64_t j = 0; j < kGroupedColumns; j += Vec::size) {
    Vec value = Vec::load(total + j);
    if (scaled) value = numerics::grouped_layer_value(value, Vec(input_scale));
    if (bias != nullptr) value = value + Vec::load(bias + j);
    value.store(target + j);
  }
  if (!full) {
    for (int64_t j = 0; j < count; ++j) out[j] = y[j];
  }
}

}  // namespace
}  // namespace torchqat::cpu
