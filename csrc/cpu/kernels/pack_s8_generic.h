// Packing by blocks of 16 weight rows x 1024 of K, which stay in the first-level cache, compiled once per instruction set.
// Block::transpose(rows, ld, out, sums) writes 16 rows x 64 k as 16 lines of 64 bytes, 256 apart, and adds each row's sum to
// sums[16].
#pragma once
#include "cpu/kernels/pack_s8.h"
#include "cpu/kernels/panels.h"
#include "cpu/kernels/quantize_span_generic.h"
#include "numerics/qparams.h"
#include "numerics/rounded_product.h"

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

constexpr int64_t kBlockRows = 16;
constexpr int64_t kWriteAhead = 256;  // of K: a panel's lines lie too far apart for the hardware to foresee them

// fill(row, k, count, codes) gives count codes of a weight's row from k on; before that, begin(row, rows) is told which rows come.
template <typename Block, typename Begin, typename Fill>
TORCHQAT_INLINE void pack_panel(const PackedS8& packed, int64_t p, Begin begin, Fill fill) {
  constexpr int64_t block_k = 1024;
  alignas(64) int8_t block[kBlockRows * block_k];
  const int64_t k_padded = padded64(packed.k), n_padded = padded64(packed.n);
  const int64_t first = p * kPanelColumns, all = std::min(kPanelColumns, packed.n - first);
  int8_t* panel = packed.panels + p * kPanelColumns * k_padded;
  int32_t* sums = packed.column_sums + first;
  for (int64_t s = 0; s < segment_count(packed.k); ++s) std::memset(sums + s * n_padded, 0, kPanelColumns * sizeof(int32_t));
  for (int64_t r0 = 0; r0 < kPanelColumns; r0 += kBlockRows) {
    const int64_t rows = std::clamp<int64_t>(all - r0, 0, kBlockRows);
    if (rows > 0) begin(first + r0, rows);
    std::memset(block + rows * block_k, 0, static_cast<size_t>((kBlockRows - rows) * block_k));
    for (int64_t k = 0; k < k_padded; k += block_k) {
      const int64_t count = std::min(block_k, packed.k - k), whole = padded64(count);
      for (int64_t r = 0; r < rows; ++r) {
        fill(first + r0 + r, k, count, block + r * block_k);
        if (count < whole) std::memset(block + r * block_k + count, 0, static_cast<size_t>(whole - count));
      }
      int32_t* segment_sums = sums + k / kSegment * n_padded + r0;
      for (int64_t part = 0; part < whole; part += 64) {
        int8_t* later = panel + (k + part + kWriteAhead) * kPanelColumns + r0 * 4;
        for (int64_t line = 0; line < 16; ++line) __builtin_prefetch(later + line * 256, 1);
        Block::transpose(block + part, block_k, panel + (k + part) * kPanelColumns + r0 * 4, segment_sums);
      }
    }
  }
}

template <typename Block>
void run_pack_s8(const int8_t* codes, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    pack_panel<Block>(packed, p, [](int64_t, int64_t) {}, [&](int64_t row, int64_t k, int64_t count, int8_t* out) {
      std::memcpy(out, codes + row * packed.k + k, static_cast<size_t>(count));
    });
  }
}

constexpr int64_t kReadAhead = 2048;  // bytes

// The largest |x| of a row by its bits, so that what is not finite shows in it.
template <typename T>
TORCHQAT_INLINE float largest_magnitude(const T* x, int64_t count) {
  const Vec zero(0.0f);
  Vec most[4] = {zero, zero, zero, zero};
  int64_t j = 0;
  for (; j + 4 * Vec::size <= count; j += 4 * Vec::size) {
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) {
      // Rows follow one another; the hardware looks no further than the page, the loop alone would wait at each.
      __builtin_prefetch(reinterpret_cast<const char*>(x + j + w * Vec::size) + kReadAhead);
      most[w] = lane_max_bits(lane_abs(Vec::load(x + j + w * Vec::size)), most[w]);
    }
  }
  for (; j < count; j += Vec::size) {
    T rest[Vec::size] = {};
    std::memcpy(rest, x + j, static_cast<size_t>(std::min<int64_t>(Vec::size, count - j)) * sizeof(T));
    most[0] = lane_max_bits(lane_abs(Vec::load(rest)), most[0]);
  }
  return numerics::reduce_bits_max(lane_max_bits(lane_max_bits(most[0], most[1]), lane_max_bits(most[2], most[3])));
}

// The largest finite |x| of a row.
template <typename T>
float largest_finite_magnitude(const T* x, int64_t count) {
  Vec most(0.0f);
  for (int64_t j = 0; j < count; j += Vec::size) {
    T values[Vec::size] = {};
    std::memcpy(values, x + j, static_cast<size_t>(std::min<int64_t>(Vec::size, count - j)) * sizeof(T));
    const Vec value = Vec::load(values);
    most = lane_max(select(numerics::is_finite(value), lane_abs(value), Vec(0.0f)), most);
  }
  return reduce_max(most);
}

// Scales of a block's rows; bit r of the result: all of row r is finite. The rows are read here and quantised next, from the
// cache.
template <typename T>
TORCHQAT_INLINE uint32_t choose_scales(const QuantizeWeights& q, int64_t k, int64_t first, int64_t rows) {
  alignas(64) float most[kBlockRows] = {};
  uint32_t finite = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = static_cast<const T*>(q.weight) + (first + r) * k;
    most[r] = largest_magnitude(row, k);
    if (most[r] <= std::numeric_limits<float>::max()) {
      finite |= 1u << r;
    } else {
      most[r] = largest_finite_magnitude(row, k);
    }
  }
  for (int64_t r = 0; r < kBlockRows; r += Vec::size) {
    const Vec high = Vec::load(most + r);
    numerics::qparams(Vec(0.0f) - high, high, q.quant_min, q.quant_max, true).scale.store(most + r);
  }
  std::memcpy(q.chosen_scale + first, most, static_cast<size_t>(rows) * sizeof(float));
  return finite;
}

// Codes of values that lie within the grid, as all finite ones do under the scale chosen from them. `next` values on, what is
// read afterwards is asked for: here the memory would rest otherwise.
template <typename T>
TORCHQAT_INLINE void quantize_inside(const T* x, int64_t count, int64_t next, const Grid& grid, int8_t* codes) {
  const Vec scale(grid.scale), reciprocal(grid.reciprocal);
  const auto block = [&](const T* from, int8_t* to) __attribute__((always_inline)) {
    constexpr int vectors = 64 / Vec::size;
    Vec nearest[vectors];
    Vec farthest(0.0f);
#pragma GCC unroll 16
    for (int w = 0; w < vectors; ++w) {
      if (w * Vec::size * sizeof(T) % 64 == 0) __builtin_prefetch(from + next + w * Vec::size, 0, 2);
      const Vec product = Vec::load(from + w * Vec::size) * reciprocal;
      nearest[w] = round_even(product);
      farthest = lane_max_bits(numerics::rounding_distance(product, nearest[w]), farthest);
    }
    constexpr uint32_t all = (1u << Vec::size) - 1u;
    if (numerics::mask_bits(in_range(farthest, Vec(0.0f), Vec(numerics::kCertainDistance))) != all) [[unlikely]] {
      for (int w = 0; w < vectors; ++w) nearest[w] = round_even(Vec::load(from + w * Vec::size) / scale);
    }
#pragma GCC unroll 16
    for (int w = 0; w < vectors; ++w) nearest[w].store_s8(to + w * Vec::size);
  };
  int64_t j = 0;
  for (; j + 64 <= count; j += 64) block(x + j, codes + j);
  if (j < count) {
    T rest[64] = {};
    int8_t rest_codes[64];
    std::memcpy(rest, x + j, static_cast<size_t>(count - j) * sizeof(T));
    block(rest, rest_codes);  // asks for what lies beside the copy, which harms nobody
    std::memcpy(codes + j, rest_codes, static_cast<size_t>(count - j));
  }
}

TORCHQAT_INLINE void fill_mask(uint8_t* mask, int64_t count) {
  std::memset(mask, 0xff, static_cast<size_t>(count / 8));
  if (count % 8 != 0) mask[count / 8] = static_cast<uint8_t>((1u << (count % 8)) - 1u);
}

template <typename Block, typename T>
void quantize_pack_of(const QuantizeWeights& q, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  const int64_t ld_mask = (packed.k + 7) / 8;
  const float* scale = q.chosen_scale != nullptr ? q.chosen_scale : q.scale;
  const int64_t stride = q.chosen_scale != nullptr ? 1 : q.stride;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    int64_t first = 0;
    uint32_t inside = 0;
    const auto begin = [&](int64_t row, int64_t rows) __attribute__((always_inline)) {
      if (q.chosen_scale == nullptr) return;
      first = row;
      inside = choose_scales<T>(q, packed.k, row, rows);
      if (-q.quant_max < q.quant_min || q.quant_max > 127.0f) inside = 0;
    };
    pack_panel<Block>(packed, p, begin, [&](int64_t row, int64_t k, int64_t count, int8_t* out) {
      const Grid grid(scale[row * stride], 0.0f, q.quant_min, q.quant_max);
      // Sixteen rows take turns, too short runs for the hardware to see: their next blocks are asked for here.
      const char* next = reinterpret_cast<const char*>(static_cast<const T*>(q.weight) + row * packed.k + k + count);
      if (q.chosen_scale == nullptr) {
        for (int64_t line = 0; line < count * static_cast<int64_t>(sizeof(T)); line += 64) __builtin_prefetch(next + line);
      }
      uint8_t* mask = q.mask != nullptr ? q.mask + row * ld_mask + k / 8 : nullptr;
      if ((inside >> (row - first) & 1) != 0) {
        quantize_inside(static_cast<const T*>(q.weight) + row * packed.k + k, count, kBlockRows * packed.k, grid, out);
        if (mask != nullptr) fill_mask(mask, count);
        return;
      }
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
