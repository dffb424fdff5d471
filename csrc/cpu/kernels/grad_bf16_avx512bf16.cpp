// Gradients and codes as bfloat16.
#include "cpu/kernels/grad_bf16.h"

#include <immintrin.h>

#include "cpu/kernels/grad_limbs_generic.h"
#include "cpu/kernels/transpose16_avx512.h"

namespace torchqat::cpu {
namespace {

template <typename T>
void rows_of(const GradSource& s, uint16_t* out, int64_t row_begin, int64_t row_end) {
  const int64_t ld = padded64(s.n);
  for (int64_t i = row_begin; i < row_end; ++i) {
    auto* line = reinterpret_cast<Bf16*>(out + i * ld);
    std::memset(line + s.n / 16 * 16, 0, static_cast<size_t>(ld - s.n / 16 * 16) * sizeof(Bf16));
    for_columns<16>(static_cast<const T*>(s.grad) + i * s.n, 0, s.n, [&](const T* g, int64_t j) {
      const int count = static_cast<int>(std::min<int64_t>(16, s.n - j));
      const Vec factor = s.column_stride == 0 ? Vec(*s.column_factor) : Vec::load(s.column_factor + j, count);
      (Vec::load(g) * factor).store(line + j);
    });
  }
}

// Sixteen columns x 32 rows at a time: two rows' values together, then a transposition of those pairs.
template <typename T>
void columns_of(const GradSource& s, uint16_t* out, int64_t block_begin, int64_t block_end) {
  const int64_t ld = padded64(s.m), end = std::min(s.n, block_end * 64);
  for (int64_t m = 0; m < ld; m += 32) {
    for (int64_t c = block_begin * 64; c < end; c += 16) {
      const int64_t count = std::min<int64_t>(16, end - c);
      __m512i pairs[16];
      for (int64_t q = 0; q < 16; ++q) {
        __m512i bits[2];
        for (int64_t t = 0; t < 2; ++t) {
          const int64_t i = m + 2 * q + t;
          T values[16] = {};
          const T* g = values;
          if (i < s.m) {
            const T* row = static_cast<const T*>(s.grad) + i * s.n + c;
            if (count == 16) {
              g = row;
            } else {
              std::memcpy(values, row, static_cast<size_t>(count) * sizeof(T));
            }
          }
          const float factor = i < s.m && s.row_factor != nullptr ? s.row_factor[i] : 1.0f;
          bits[t] = _mm512_cvtepu16_epi32((Vec::load(g) * Vec(factor)).bf16());
        }
        pairs[q] = _mm512_or_si512(bits[0], _mm512_slli_epi32(bits[1], 16));
      }
      transpose16(pairs, [&](int l, __m512i line) __attribute__((always_inline)) {
        if (l < count) _mm512_storeu_si512(out + (c + l) * ld + m, line);
      });
    }
  }
}

// Pairs of bytes as pairs of bfloat16: small integers are exact, so the upper half of a float is all there is.
TORCHQAT_INLINE __m512i small_bf16(__m512i low, __m512i high, __m512i low_zero, __m512i high_zero) {
  const __m512i a = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(low, low_zero)));
  const __m512i b = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(high, high_zero)));
  return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(a, 16), b);
}

}  // namespace

void grad_rows_to_bf16(const GradSource& s, uint16_t* out, int64_t row_begin, int64_t row_end) {
  with_type(s.type, [&]<typename T>() { rows_of<T>(s, out, row_begin, row_end); });
}

void grad_columns_to_bf16(const GradSource& s, uint16_t* out, int64_t block_begin, int64_t block_end) {
  with_type(s.type, [&]<typename T>() { columns_of<T>(s, out, block_begin, block_end); });
}

void panels_to_bf16(const uint8_t* panels, int64_t lines, int64_t count, const int32_t* zero_points, int32_t zero_point,
                    uint16_t* out, int64_t panel_begin, int64_t panel_end) {
  const __m512i byte = _mm512_set1_epi32(0xff);
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    for (int64_t i = 0; i < lines; i += 4) {
      __m512i zero[4];
      for (int64_t t = 0; t < 4; ++t) {
        zero[t] = _mm512_set1_epi32(zero_points == nullptr ? zero_point : i + t < count ? zero_points[i + t] : 0);
      }
      const uint8_t* group = panels + (p * lines + i) * kPanelColumns;
      uint16_t* first = out + (p * lines + i) * kPanelColumns;
      for (int64_t q = 0; q < 4; ++q) {
        const __m512i codes = _mm512_loadu_si512(group + 64 * q);
        const __m512i c0 = _mm512_and_si512(codes, byte), c1 = _mm512_and_si512(_mm512_srli_epi32(codes, 8), byte);
        const __m512i c2 = _mm512_and_si512(_mm512_srli_epi32(codes, 16), byte), c3 = _mm512_srli_epi32(codes, 24);
        _mm512_storeu_si512(first + 32 * q, small_bf16(c0, c1, zero[0], zero[1]));
        _mm512_storeu_si512(first + 128 + 32 * q, small_bf16(c2, c3, zero[2], zero[3]));
      }
    }
  }
}

void groups_to_bf16_panels(const int8_t* codes, const float* scale, int64_t n, int64_t k, int64_t group, uint16_t* out,
                           int64_t pair_begin, int64_t pair_end) {
  const int64_t pairs = padded64(n) / 2, groups = (k + group - 1) / group;
  const auto bits = [&](int64_t row, int64_t j) {
    if (row >= n) return _mm512_setzero_si512();
    const __m512i q = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + row * k + j)));
    const Vec value = Vec(_mm512_cvtepi32_ps(q)) * Vec(scale[row * groups + j / group]);
    return _mm512_cvtepu16_epi32(value.bf16());
  };
  for (int64_t i = pair_begin; i < pair_end; ++i) {
    for (int64_t j = 0; j < k; j += 16) {
      const __m512i both = _mm512_or_si512(bits(2 * i, j), _mm512_slli_epi32(bits(2 * i + 1, j), 16));
      _mm512_storeu_si512(out + (j / 64 * pairs + i) * 128 + j % 64 * 2, both);
    }
  }
}

}  // namespace torchqat::cpu
