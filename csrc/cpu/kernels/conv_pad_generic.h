// The first half of a convolution: quantise a sample (or copy its codes) into padded planes of u8 codes, channels last,
// with a border of zero points. Included by conv_int8_generic.h.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/conv_codes_generic.h"
#include "cpu/kernels/conv_int8.h"
#include "cpu/kernels/conv_walk.h"
#include "cpu/vec/transpose.h"
#include "cpu/vec/vec.h"
#include "numerics/affine.h"
#include "numerics/quotient.h"

namespace torchqat::cpu::conv {
namespace {

using numerics::Vec;

// to[i] = code of values[i], shifted. Returns nonzero if a value was NaN. Writes n bytes rounded up to whole vectors
// if `roomy`, exactly n otherwise.
inline uint32_t quantize_run(const Source& s, const float* values, int64_t n, uint8_t* to, bool roomy) {
  const Vec scale(s.scale), zero(s.zero_point), low(s.quant_min), high(s.quant_max), shift(static_cast<float>(s.shift));
  const Vec reciprocal(numerics::quotient_reciprocal(s.scale));
  uint32_t nan = 0;
  const auto code = [&](Vec x) {
    nan |= numerics::mask_bits(numerics::is_nan(x));
    const Vec level = numerics::rounded_quotient(x, scale, reciprocal) + zero;
    return numerics::storable_code(numerics::clamp_level(level, low, high), zero) + shift;
  };
  int64_t i = 0;
#if defined(__AVX2__)
  const auto stored = static_cast<float>(s.shift);
  const CodeGrid grid(OutputGrid{false, s.scale, s.zero_point + stored, s.quant_min + stored, s.quant_max + stored});
  const CodePacker pack(grid);
  for (; i + CodePacker::width <= n; i += CodePacker::width) pack.store_codes_of(values + i, to + i, &nan);
#endif
  for (; i + Vec::size <= n; i += Vec::size) code(Vec::load(values + i)).store_u8(to + i);
  if (i < n) {
    const Vec tail = code(Vec::load(values + i, static_cast<int>(n - i)));
    if (roomy) {
      tail.store_u8(to + i);
    } else {
      uint8_t last[Vec::size];
      tail.store_u8(last);
      std::memcpy(to + i, last, static_cast<size_t>(n - i));
    }
  }
  return nan;
}

bool quantize_masked(const Source& s, int64_t n, uint8_t* codes, uint8_t* mask) {
  const Vec scale(s.scale), zero(s.zero_point), low(s.quant_min), high(s.quant_max), shift(static_cast<float>(s.shift));
  const Vec reciprocal(numerics::quotient_reciprocal(s.scale));
  uint32_t nan = 0;
  float last[16] = {};
  uint8_t last_codes[16];
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (; i + 64 <= n; i += 64) {
    __m512i code[4];
    uint64_t inside = 0;
    Vec worst(0.0f);  // one test for near-ties and NaN; the margin is quotient.h's
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Vec product = Vec::load(s.values + i + 16 * j) * reciprocal, nearest = round_even(product);
      worst = numerics::lane_max_bits(worst, lane_abs(product - nearest) + lane_abs(product) * Vec(0x1p-21f));
      const Vec level = nearest + zero, clamped = numerics::clamp_level(level, low, high);
      inside |= static_cast<uint64_t>(_mm512_cmp_ps_mask(level.v, clamped.v, _CMP_EQ_OQ)) << (16 * j);
      code[j] = _mm512_cvttps_epi32((clamped + shift).v);
    }
    if (_mm512_cmp_ps_mask(worst.v, _mm512_set1_ps(0.5f), _CMP_LE_OQ) != 0xffff) [[unlikely]] {
      inside = 0;
      for (int j = 0; j < 4; ++j) {
        const Vec x = Vec::load(s.values + i + 16 * j), level = numerics::rounded_quotient(x, scale, reciprocal) + zero;
        nan |= numerics::mask_bits(numerics::is_nan(x));
        inside |= static_cast<uint64_t>(numerics::mask_bits(in_range(level, low, high))) << (16 * j);
        code[j] = _mm512_cvttps_epi32((numerics::storable_code(numerics::clamp_level(level, low, high), zero) + shift).v);
      }
    }
    const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(code[0], code[1]), _mm512_packs_epi32(code[2], code[3]));
    _mm512_storeu_si512(codes + i, _mm512_permutexvar_epi32(order, bytes));
    std::memcpy(mask + i / 8, &inside, 8);
  }
#elif defined(__AVX2__)
  for (; i + 32 <= n; i += 32) {
    __m256i code[4];
    uint32_t inside = 0;
    Vec worst(0.0f);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Vec product = Vec::load(s.values + i + 8 * j) * reciprocal, nearest = round_even(product);
      worst = numerics::lane_max_bits(worst, lane_abs(product - nearest) + lane_abs(product) * Vec(0x1p-21f));
      const Vec level = nearest + zero, clamped = numerics::clamp_level(level, low, high);
      inside |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(level.v, clamped.v, _CMP_EQ_OQ))) << (8 * j);
      code[j] = _mm256_cvttps_epi32((clamped + shift).v);
    }
    if (_mm256_movemask_ps(_mm256_cmp_ps(worst.v, _mm256_set1_ps(0.5f), _CMP_LE_OQ)) != 0xff) [[unlikely]] {
      inside = 0;
      for (int j = 0; j < 4; ++j) {
        const Vec x = Vec::load(s.values + i + 8 * j), level = numerics::rounded_quotient(x, scale, reciprocal) + zero;
        nan |= numerics::mask_bits(numerics::is_nan(x));
        inside |= numerics::mask_bits(in_range(level, low, high)) << (8 * j);
        code[j] = _mm256_cvttps_epi32((numerics::storable_code(numerics::clamp_level(level, low, high), zero) + shift).v);
      }
    }
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(code[0], code[1]), _mm256_packs_epi32(code[2], code[3]));
    const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), ordered);
    std::memcpy(mask + i / 8, &inside, 4);
  }
#endif
  for (; i < n; i += 16) {
    const int64_t left = std::min<int64_t>(16, n - i);
    const float* from = s.values + i;
    uint8_t* to = codes + i;
    if (left < 16) {
      std::memcpy(last, from, static_cast<size_t>(left) * sizeof(float));
      from = last;
      to = last_codes;
    }
    uint32_t inside = 0;
    for (int j = 0; j < 16; j += Vec::size) {
      const Vec x = Vec::load(from + j), level = numerics::rounded_quotient(x, scale, reciprocal) + zero;
      nan |= numerics::mask_bits(numerics::is_nan(x));
      inside |= numerics::mask_bits(in_range(level, low, high)) << j;
      (numerics::storable_code(numerics::clamp_level(level, low, high), zero) + shift).store_u8(to + j);
    }
    if (left < 16) std::memcpy(codes + i, last_codes, static_cast<size_t>(left));
    mask[i / 8] = static_cast<uint8_t>(inside);
    if (left > 8) mask[i / 8 + 1] = static_cast<uint8_t>(inside >> 8);
  }
  return nan != 0;
}

void mask_values(float* values, int64_t n, const uint8_t* mask) {
  for (int64_t i = 0; i < n; i += Vec::size) {
    const int left = static_cast<int>(std::min<int64_t>(Vec::size, n - i));
    uint32_t bits = static_cast<uint32_t>(mask[i / 8]) >> (i % 8);
    if (left > 8) bits |= static_cast<uint32_t>(mask[i / 8 + 1]) << 8;
    numerics::select(Vec::from_bits(bits), Vec::load(values + i, left), Vec(0.0f)).store(values + i, left);
  }
}

inline uint32_t load_run(const Source& s, int64_t at, int64_t n, uint8_t* to, bool roomy) {
  if (s.values != nullptr) return quantize_run(s, s.values + at, n, to, roomy);
  if (!s.flip) {
    std::memcpy(to, s.codes + at, static_cast<size_t>(n));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = s.codes[at + i] ^ 0x80;
  }
  return 0;
}

inline uint32_t pad_channels_last(const Plan& p, const Source& s, int64_t z, int64_t y, uint8_t* codes, uint8_t* scratch) {
  const int64_t channels = p.weight.in_channels(), width = p.in[2], cs = p.weight.plane_in;
  const int64_t at = (z * p.in[1] + y) * width * channels;
  uint8_t* to = codes + padded_at(p, z, y, 0);
  if (p.weight.planes == 1) return load_run(s, at, width * channels, to, false);
  uint32_t nan = 0;
  for (int64_t x = 0; x < width; ++x) {
    nan |= load_run(s, at + x * channels, channels, scratch, true);
    for (int64_t plane = 0; plane < p.weight.planes; ++plane) {
      const int64_t n = std::min(cs, channels - plane * cs);
      std::memcpy(to + plane * p.plane_bytes + x * cs, scratch + plane * cs, static_cast<size_t>(n));
    }
  }
  return nan;
}

// The codes of one block of pixels, channels first, to their places in the padded planes: 16 x 16 transposes.
// block: code of channel c and pixel i at block[c * apart + i]. room: bytes that can be read from `block` on.
inline void scatter_pixels(const Plan& p, const uint8_t* block, int64_t apart, int64_t room, const int64_t* to, int64_t n, uint8_t* codes) {
  const int64_t channels = p.weight.in_channels(), cs = p.weight.plane_in;
  alignas(64) uint8_t square[256];
  uint8_t edge[256] = {};
  for (int64_t plane = 0; plane < p.weight.planes; ++plane) {
    uint8_t* plane_codes = codes + plane * p.plane_bytes;
    const int64_t here = std::min(cs, channels - plane * cs);
    for (int64_t c = 0; c < here; c += 16) {
      const int64_t bytes = std::min<int64_t>(16, here - c);
      for (int64_t i = 0; i < n; i += 16) {
        const int64_t at = (plane * cs + c) * apart + i, count = std::min<int64_t>(16, n - i);
        if (at + 15 * apart + 16 <= room) {
          numerics::transpose_bytes(block + at, apart, square);
        } else {
          for (int64_t b = 0; b < bytes; ++b) std::memcpy(edge + 16 * b, block + at + b * apart, static_cast<size_t>(count));
          numerics::transpose_bytes(edge, 16, square);
        }
        if (bytes == 16) {
          for (int64_t j = 0; j < count; ++j) std::memcpy(plane_codes + to[i + j] + c, square + 16 * j, 16);
        } else {
          for (int64_t j = 0; j < count; ++j) {
            uint8_t* pixel = plane_codes + to[i + j] + c;
            for (int64_t b = 0; b < bytes; ++b) pixel[b] = square[16 * j + b];
          }
        }
      }
    }
  }
}

// Rows [y, y + rows) of slice z, channels first, kPixelBlock pixels at a time. Floats and signed codes become u8 codes in scratch first.
inline uint32_t pad_channels_first(const Plan& p, const Source& s, int64_t z, int64_t y, int64_t rows, uint8_t* codes,
                                   uint8_t* scratch) {
  const int64_t channels = p.weight.in_channels(), width = p.in[2];
  const int64_t first = (z * p.in[1] + y) * width, pixels = rows * width;
  const bool as_they_are = s.values == nullptr && !s.flip;
  int64_t to[kPixelBlock], row = y, x = 0;
  uint32_t nan = 0;
  for (int64_t from = 0; from < pixels; from += kPixelBlock) {
    const int64_t n = std::min(kPixelBlock, pixels - from), at = first + from;
    for (int64_t i = 0; i < n; ++i) {
      to[i] = padded_at(p, z, row, x);
      if (++x == width) x = 0, ++row;
    }
    if (as_they_are) {
      scatter_pixels(p, s.codes + at, p.in_pixels(), channels * p.in_pixels() - at, to, n, codes);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) nan |= load_run(s, c * p.in_pixels() + at, n, scratch + c * kPixelBlock, true);
    scatter_pixels(p, scratch, kPixelBlock, (channels + 15) * kPixelBlock, to, n, codes);
  }
  return nan;
}

bool pad_rows(const Plan& p, const Source& s, int64_t begin, int64_t end, uint8_t* codes, uint8_t* scratch) {
  const int border = static_cast<int>(s.zero_point) + s.shift;
  const int64_t cs = p.weight.plane_in, row_bytes = p.padded[2] * cs, left = p.padding[2] * cs;
  const int64_t rows_to_block = std::max<int64_t>(1, kPixelBlock / std::max<int64_t>(p.in[2], 1));
  // One channel lies alike both ways.
  const bool channels_last = s.channels_last || p.weight.in_channels() == 1;
  uint32_t nan = 0;
  for (int64_t row = begin; row < end;) {
    const int64_t z = row / p.padded[1] - p.padding[0], y = row % p.padded[1] - p.padding[1];
    const bool inside = z >= 0 && z < p.in[0] && y >= 0 && y < p.in[1];
    const int64_t count = inside && !channels_last ? std::min({rows_to_block, end - row, p.in[1] - y}) : 1;
    for (int64_t plane = 0; plane < p.weight.planes; ++plane) {
      for (int64_t r = 0; r < count; ++r) {
        uint8_t* to = codes + plane * p.plane_bytes + (row + r) * row_bytes;
        if (!inside || p.extra[2] > 0) {
          std::memset(to, border, static_cast<size_t>(row_bytes));
        } else if (left > 0) {
          std::memset(to, border, static_cast<size_t>(left));
          std::memset(to + row_bytes - left, border, static_cast<size_t>(left));
        }
      }
    }
    if (inside) nan |= channels_last ? pad_channels_last(p, s, z, y, codes, scratch) : pad_channels_first(p, s, z, y, count, codes, scratch);
    row += count;
  }
  return nan != 0;
}

}  // namespace
}  // namespace torchqat::cpu::conv
