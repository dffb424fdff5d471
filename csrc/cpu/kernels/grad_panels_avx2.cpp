// Backward panels: the avx2 path.
#include <immintrin.h>

#include "cpu/kernels/grad_panels_generic.h"

namespace torchqat::cpu {

void codes_to_panels_avx2(const uint8_t* codes, int64_t rows, int64_t ld, int64_t, uint8_t* out, int64_t panel_begin,
                        int64_t panel_end) {
  const int64_t lines = padded64(rows);
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    uint8_t* panel = out + p * kPanelColumns * lines;
    for (int64_t i = 0; i < lines; i += 4, panel += 4 * kPanelColumns) {
      for (int64_t half = 0; half < 2; ++half) {
        __m256i r[4];
        for (int64_t t = 0; t < 4; ++t) {
          const uint8_t* row = codes + (i + t) * ld + p * kPanelColumns + 32 * half;
          r[t] = i + t < rows ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row)) : _mm256_setzero_si256();
        }
        const __m256i a = _mm256_unpacklo_epi8(r[0], r[1]), b = _mm256_unpackhi_epi8(r[0], r[1]);
        const __m256i c = _mm256_unpacklo_epi8(r[2], r[3]), d = _mm256_unpackhi_epi8(r[2], r[3]);
        const __m256i v[4] = {_mm256_unpacklo_epi16(a, c), _mm256_unpackhi_epi16(a, c), _mm256_unpacklo_epi16(b, d),
                              _mm256_unpackhi_epi16(b, d)};
        auto* to = reinterpret_cast<__m256i*>(panel + 128 * half);
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(v[0], v[1], 0x20));
        _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(v[2], v[3], 0x20));
        _mm256_storeu_si256(to + 2, _mm256_permute2x128_si256(v[0], v[1], 0x31));
        _mm256_storeu_si256(to + 3, _mm256_permute2x128_si256(v[2], v[3], 0x31));
      }
    }
  }
}

// A forward line holds, for each four n, a 4 x 4 block of bytes: transposed within its 16 bytes.
void weight_to_panels_avx2(const int8_t* panels, int64_t n, int64_t k, uint8_t* out, int64_t panel_begin,
                         int64_t panel_end) {
  const int64_t lines = padded64(n), k_padded = padded64(k);
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i flip = _mm_set1_epi8(static_cast<char>(0x80));
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    for (int64_t block = 0; block < lines; block += 64) {
      const int8_t* source = panels + block * k_padded + p * 64 * 64;
      uint8_t* target = out + p * 64 * lines + block * 64;
      for (int64_t n4 = 0; n4 < 16; ++n4) {
        for (int64_t k4 = 0; k4 < 16; ++k4) {
          const __m128i square = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + k4 * 256 + n4 * 16));
          _mm_storeu_si128(reinterpret_cast<__m128i*>(target + n4 * 256 + k4 * 16), _mm_shuffle_epi8(_mm_xor_si128(square, flip), order));
        }
      }
    }
  }
}

}  // namespace torchqat::cpu
