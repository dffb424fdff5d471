// The products of two AMX tiles, over the operations of gemm_ops.h. Tiles 0-3 hold sums (row half * 2 + column half), 4 and 5 the row
// halves of A, 6 and 7 the column halves of B. Included by ISA files.
#pragma once
#include <type_traits>

#include "cpu/kernels/amx_config.h"
#include "cpu/kernels/gemm_ops.h"
#include "numerics/config.h"

namespace torchqat::cpu {
namespace {

// Tile numbers are part of the instruction, so each sum is written out.
template <typename Op, int Sum>
TORCHQAT_INLINE void add_products() {
  if constexpr (std::is_same_v<Op, U8S8>) {
    if constexpr (Sum == 0) _tile_dpbusd(0, 4, 6);
    if constexpr (Sum == 1) _tile_dpbusd(1, 4, 7);
    if constexpr (Sum == 2) _tile_dpbusd(2, 5, 6);
    if constexpr (Sum == 3) _tile_dpbusd(3, 5, 7);
  } else if constexpr (std::is_same_v<Op, S8U8>) {
    if constexpr (Sum == 0) _tile_dpbsud(0, 4, 6);
    if constexpr (Sum == 1) _tile_dpbsud(1, 4, 7);
    if constexpr (Sum == 2) _tile_dpbsud(2, 5, 6);
    if constexpr (Sum == 3) _tile_dpbsud(3, 5, 7);
  } else {
    if constexpr (Sum == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (Sum == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (Sum == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (Sum == 3) _tile_dpbf16ps(3, 5, 7);
  }
}

}  // namespace
}  // namespace torchqat::cpu
