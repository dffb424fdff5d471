// Packing by blocks of 64 weight rows x 1024 of K, compiled once per instruction set. Block::transpose(rows, ld,
// out, sums) writes 16 rows x 64 k as 16 lines of 64 bytes, 256 apart, and adds each row's sum to sums[16].
#pragma once
#include "cpu/kernels/pack_s8.h"
#include "cpu/kernels/panels.h"
#include "cpu/kernels/quantize_span_generic.h"
#include "numerics/qparams.h"

namespace torchqat::cpu {
namespace {

struct PlainBlock {
  static void transpose(const int8_t* rows, int64_t ld, int8_t* out, int32_t* sums) {
    for (int64_t r = 0; r < 16; ++r) {
      int32_t sum = 0;
      for (int64_t k = 0; k < 64; ++k) sum += rows[r * ld + k];
      sums[r] += sum;
      for (int64_t k4 = 0; k4 < 16; ++k4) std::memcpy(out + k4 * 256 + r * 4, rows + r * ld + k4 * 4, 4);
    }
  }
};

// fill(row, k, count, codes) gives count codes of a weight's row from k on.
template <typename Block, typename Fill>
TORCHQAT_INLINE void pack_panel(const PackedS8& packed, int64_t p, Fill fill) {
  constexpr int64_t block_k = 1024;
  alignas(64) int8_t block[kPanelColumns * block_k];
  const int64_t k_padded = padded64(packed.k), n_padded = padded64(packed.n);
  const int64_t first = p * kPanelColumns, rows = std::min(kPanelColumns, packed.n - first);
  int8_t* panel = packed.panels + p * kPanelColumns * k_padded;
  int32_t* sums = packed.column_sums + first;
  std::memset(block + rows * block_k, 0, static_cast<size_t>((kPanelColumns - rows) * block_k));
  for (int64_t s = 0; s < segment_count(packed.k); ++s) std::memset(sums + s * n_padded, 0, kPanelColumns * sizeof(int32_t));
  for (int64_t k = 0; k < k_padded; k += block_k) {
    int32_t* segment_sums = sums + k / kSegment * n_padded;
    const int64_t count = std::min(block_k, packed.k - k), whole = padded64(count);
    for (int64_t r = 0; r < rows; ++r) {
      fill(first + r, k, count, block + r * block_k);
      std::memset(block + r * block_k + count, 0, static_cast<size_t>(whole - count));
    }
    for (int64_t part = 0; part < whole; part += 64) {
      for (int64_t r = 0; r < kPanelColumns; r += 16) {
        Block::transpose(block + r * block_k + part, block_k, panel + (k + part) * kPanelColumns + r * 4,
                         segment_sums + r);
      }
    }
  }
}

template <typename Block>
void run_pack_s8(const int8_t* codes, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    pack_panel<Block>(packed, p, [&](int64_t row, int64_t k, int64_t count, int8_t* out) {
      std::memcpy(out, codes + row * packed.k + k, static_cast<size_t>(count));
    });
  }
}

constexpr int64_t kReadAhead = 2048;  // bytes

// The largest finite |x| of a row.
template <typename T>
TORCHQAT_INLINE float largest_magnitude(const T* x, int64_t count) {
  const Vec zero(0.0f);
  Vec most[4] = {zero, zero, zero, zero};
  const auto take = [](Vec value, Vec& m) __attribute__((always_inline)) {
    m = lane_max(select(numerics::is_finite(value), lane_abs(value), Vec(0.0f)), m);
  };
  int64_t j = 0;
  for (; j + 4 * Vec::size <= count; j += 4 * Vec::size) {
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) {
      // Rows follow one another; the hardware looks no further than the page, the loop alone would wait at each.
      __builtin_prefetch(reinterpret_cast<const char*>(x + j + w * Vec::size) + kReadAhead);
      take(Vec::load(x + j + w * Vec::size), most[w]);
    }
  }
  for (; j < count; j += Vec::size) {
    T rest[Vec::size] = {};
    std::memcpy(rest, x + j, static_cast<size_t>(std::min<int64_t>(Vec::size, count - j)) * sizeof(T));
    take(Vec::load(rest), most[0]);
  }
  return reduce_max(lane_max(lane_max(most[0], most[1]), lane_max(most[2], most[3])));
}

// Scales of a panel's rows. The rows are read here and quantised next, from the cache.
template <typename T>
TORCHQAT_INLINE void choose_scales(const QuantizeWeights& q, int64_t k, int64_t first, int64_t rows) {
  alignas(64) float most[kPanelColumns] = {};
  for (int64_t r = 0; r < rows; ++r) most[r] = largest_magnitude(static_cast<const T*>(q.weight) + (first + r) * k, k);
  for (int64_t r = 0; r < kPanelColumns; r += Vec::size) {
    const Vec high = Vec::load(most + r);
    numerics::qparams(Vec(0.0f) - high, high, q.quant_min, q.quant_max, true).scale.store(most + r);
  }
  std::memcpy(q.chosen_scale + first, most, static_cast<size_t>(rows) * sizeof(float));
}

template <typename Block, typename T>
void quantize_pack_of(const QuantizeWeights& q, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  const int64_t ld_mask = (packed.k + 7) / 8;
  const float* scale = q.chosen_scale != nullptr ? q.chosen_scale : q.scale;
  const int64_t stride = q.chosen_scale != nullptr ? 1 : q.stride;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const int64_t first = p * kPanelColumns;
    if (q.chosen_scale != nullptr) choose_scales<T>(q, packed.k, first, std::min(kPanelColumns, packed.n - first));
    pack_panel<Block>(packed, p, [&](int64_t row, int64_t k, int64_t count, int8_t* out) {
      const Grid grid(scale[row * stride], 0.0f, q.quant_min, q.quant_max);
      // Sixty-four rows take turns, too short runs for the hardware to see: their next blocks are asked for here.
      const char* next = reinterpret_cast<const char*>(static_cast<const T*>(q.weight) + row * packed.k + k + count);
      if (q.chosen_scale == nullptr) {
        for (int64_t line = 0; line < count * static_cast<int64_t>(sizeof(T)); line += 64) __builtin_prefetch(next + line);
      }
      uint8_t* mask = q.mask != nullptr ? q.mask + row * ld_mask + k / 8 : nullptr;
      quantize_span(static_cast<const T*>(q.weight) + row * packed.k + k, count, grid, out, mask);
    });
  }
}

template <typename Block>
void run_quantize_pack_s8(const QuantizeWeights& q, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  switch (q.type) {
    case FloatType::float32: return quantize_pack_of<Block, float>(q, packed, panel_begin, panel_end);
    case FloatType::bfloat16: return quantize_pack_of<Block, Bf16>(q, packed, panel_begin, panel_end);
    case FloatType::float16: return quantize_pack_of<Block, Half>(q, packed, panel_begin, panel_end);
  }
}

}  // namespace
}  // namespace torchqat::cpu
