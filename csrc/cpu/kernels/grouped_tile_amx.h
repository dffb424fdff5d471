// Tiles of the AMX path on weights in groups: products of 16 rows x 16 columns, their way from the matrix unit through
// memory to the float totals, and the order of both for eight groups of 32. Included by linear_grouped_amx.cpp.
#pragma once
#include <utility>

#include "cpu/kernels/amx_config.h"
#include "cpu/kernels/grouped_lanes_avx512.h"
#include "cpu/kernels/linear_grouped_entry.h"

namespace torchqat::cpu {
namespace {

template <int sum>
TORCHQAT_INLINE void zero_sums() {
  if constexpr (sum == 0) _tile_zero(0);
  if constexpr (sum == 1) _tile_zero(1);
  if constexpr (sum == 2) _tile_zero(2);
  if constexpr (sum == 3) _tile_zero(3);
}

// Register numbers are part of the mnemonic: they must be literals.
template <int sum>
TORCHQAT_INLINE void add_product(const uint8_t* a, const uint8_t* b) {
  if constexpr (sum % 2 == 0) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, kGroupedLine);
  } else {
    _tile_loadd(5, a, 64);
    _tile_loadd(7, b, kGroupedLine);
  }
  if constexpr (sum == 0) _tile_dpbusd(0, 4, 6);
  if constexpr (sum == 1) _tile_dpbusd(1, 5, 7);
  if constexpr (sum == 2) _tile_dpbusd(2, 4, 6);
  if constexpr (sum == 3) _tile_dpbusd(3, 5, 7);
}

template <int sum>
TORCHQAT_INLINE void store_sums(int32_t* out) {
  if constexpr (sum == 0) _tile_stored(0, out, 64);
  if constexpr (sum == 1) _tile_stored(1, out, 64);
  if constexpr (sum == 2) _tile_stored(2, out, 64);
  if constexpr (sum == 3) _tile_stored(3, out, 64);
}

// Adds one integer block to rows x 16 totals.
template <int rows, bool folds>
TORCHQAT_INLINE void add_block(const int32_t* acc, const int32_t* sums, const float* scale, const int32_t* zero_point,
                               numerics::Vec* t) {
  keep_in_memory();
  const numerics::Vec s = numerics::Vec::load(scale);
  [[maybe_unused]] __m512i sum;
  if constexpr (!folds) sum = _mm512_load_si512(sums);
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    __m512i exact = _mm512_load_si512(acc + 16 * r);
    if constexpr (!folds) Lanes::subtract_product(exact, sum, _mm512_set1_epi32(zero_point[r]));
    t[r] = numerics::add_group(t[r], Lanes::to_float(exact), s);
  }
}

// Packed weights and scales that the next block will unpack, in lines of 64 bytes: asked for a few at a time while this
// block is multiplied.
struct Soon {
  const uint8_t *weight = nullptr, *scale = nullptr;
  int64_t weight_lines = 0, scale_lines = 0;
};

// Where a panel's finished rows go without a way through the totals: 16 whole rows of 64 columns.
struct Finish {
  float* out = nullptr;  // null: totals stay totals
  int64_t ldo = 0;
  const float *input_scale = nullptr, *bias = nullptr;
  int64_t input_stride = 0;
};

// What the products of eight folding groups of 32 with `rows` rows read and write.
struct Flow {
  const uint8_t *a, *next, *b;  // next: the tile of rows wanted after this one, or null
  const float* scale;
  float* total;
  int32_t (*acc)[256];
  bool first;  // totals begin at 0
  Finish finish;
  Soon soon;
};

template <int rows>
TORCHQAT_INLINE void begin_totals(const Flow& f, int column, numerics::Vec* t) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) t[r] = numerics::Vec(0.0f);
  if (f.first) return;
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) t[r] = numerics::Vec::load(f.total + r * kGroupedColumns + column);
}

template <int rows>
TORCHQAT_INLINE void end_totals(const Flow& f, int column, const numerics::Vec* t) {
  using numerics::Vec;
  const Finish& to = f.finish;
  if (to.out == nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) t[r].store(f.total + r * kGroupedColumns + column);
    return;
  }
  float* out = to.out + column;
  if (to.bias != nullptr) {
    const Vec bias = Vec::load(to.bias + column);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      (numerics::grouped_layer_value(t[r], Vec(to.input_scale[r * to.input_stride])) + bias).store(out + r * to.ldo);
    }
    return;
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    numerics::grouped_layer_value(t[r], Vec(to.input_scale[r * to.input_stride])).store(out + r * to.ldo);
  }
}

// Step i of 32 (eight groups of each of four column blocks): the product i + 3 is begun, sums i + 1 leave the matrix unit, two
// products after theirs, and sums i are added. Stores directly behind their product, or all of them in one go, make the
// unit and the float lanes wait for each other.
template <int rows, int i>
TORCHQAT_INLINE void flow_step(const Flow& f, numerics::Vec* t) {
  constexpr int blocks = 4 * 8, product = i + 3, sums = i + 1, at = i % 8 * kGroupedColumns + i / 8 * 16;
  if constexpr (product < blocks) {
    constexpr int group = product % 8, column = product / 8;
    if (f.next != nullptr) {
#pragma GCC unroll 4
      for (int line = 0; line < 4; ++line) Lanes::prefetch(f.next + group * 1024 + column * 256 + line * 64);
    }
    for (int64_t l = product; l < f.soon.weight_lines; l += blocks) Lanes::prefetch_far(f.soon.weight + 64 * l);
    for (int64_t l = product; l < f.soon.scale_lines; l += blocks) Lanes::prefetch_far(f.soon.scale + 64 * l);
    zero_sums<product % 4>();
    add_product<product % 4>(f.a + group * 1024, f.b + group * 36 * kGroupedColumns + column * 64);
  }
  if constexpr (i < 0) {
    if constexpr (sums >= 0) store_sums<sums % 4>(f.acc[sums % 4]);
  } else {
    if constexpr (i % 8 == 0) begin_totals<rows>(f, i / 8 * 16, t);
    const int32_t* acc = f.acc[i % 4];
    add_block<rows / 2, true>(acc, nullptr, f.scale + at, nullptr, t);
    if constexpr (sums < blocks) store_sums<sums % 4>(f.acc[sums % 4]);
    add_block<rows / 2, true>(acc + 16 * (rows / 2), nullptr, f.scale + at, nullptr, t + rows / 2);
    if constexpr (i % 8 == 7) end_totals<rows>(f, i / 8 * 16, t);
  }
}

template <int rows, int... i>
TORCHQAT_INLINE void flow_steps(const Flow& f, numerics::Vec* t, std::integer_sequence<int, i...>) {
  (flow_step<rows, i - 3>(f, t), ...);
}

template <int rows>
__attribute__((noinline)) void tile_flow(Flow f) {
  alignas(64) int32_t acc[4][256];
  f.acc = acc;
  numerics::Vec t[rows];
  flow_steps<rows>(f, t, std::make_integer_sequence<int, 32 + 3>{});
}

}  // namespace
}  // namespace torchqat::cpu
