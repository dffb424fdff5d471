// From a kernel's arguments to its instantiation: by bits per slot, and by rows.
#pragma once
#include "cpu/kernels/linear_grouped_gemm.h"
#include "cpu/kernels/linear_grouped_float.h"
#include "cpu/kernels/linear_grouped_gemv.h"

namespace torchqat::cpu {
namespace {

template <typename Tile, int slot>
inline void run_grouped_int8_slot(const GroupedInt8& g, const GroupedRange& range, int64_t gemv_most) {
  range.row_end - range.row_begin <= gemv_most ? gemv_rows<slot>(g, range) : gemm_rows<Tile, slot>(g, range);
}

// gemv_most: up to so many rows each is taken by itself.
template <typename Tile>
inline void run_grouped_int8(const GroupedInt8& g, const GroupedRange& range, int64_t gemv_most) {
  switch (g.w.slot) {
    case 2: run_grouped_int8_slot<Tile, 2>(g, range, gemv_most); break;
    case 4: run_grouped_int8_slot<Tile, 4>(g, range, gemv_most); break;
    default: run_grouped_int8_slot<Tile, 8>(g, range, gemv_most); break;
  }
  set_nan_rows(g, range);
}

inline void run_grouped_float(const GroupedFloat& g, const GroupedRange& range) {
  switch (g.w.slot) {
    case 2: return float_rows<2>(g, range);
    case 4: return float_rows<4>(g, range);
    default: return float_rows<8>(g, range);
  }
}

}  // namespace
}  // namespace torchqat::cpu
