// Backward panels: the avx512 path.
#include <immintrin.h>

#include "cpu/kernels/grad_panels_generic.h"

namespace torchqat::cpu {
namespace {

// Vector c's quarter q becomes vector q's quarter c.
TORCHQAT_INLINE void transpose_quarters(__m512i (&v)[4]) {
  const __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[2], v[3], 0x44);
  const __m512i c = _mm512_shuffle_i32x4(v[0], v[1], 0xee), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_i32x4(a, b, 0x88);
  v[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
  v[2] = _mm512_shuffle_i32x4(c, d, 0x88);
  v[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}

}  // namespace

void codes_to_panels_avx512(const uint8_t* codes, int64_t rows, int64_t ld, int64_t, uint8_t* out, int64_t panel_begin,
                            int64_t panel_end) {
  const int64_t lines = padded64(rows);
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    uint8_t* panel = out + p * kPanelColumns * lines;
    for (int64_t i = 0; i < lines; i += 4, panel += 4 * kPanelColumns) {
      __m512i r[4];
      for (int64_t t = 0; t < 4; ++t) {
        r[t] = i + t < rows ? _mm512_loadu_si512(codes + (i + t) * ld + p * kPanelColumns) : _mm512_setzero_si512();
      }
      const __m512i a = _mm512_unpacklo_epi8(r[0], r[1]), b = _mm512_unpackhi_epi8(r[0], r[1]);
      const __m512i c = _mm512_unpacklo_epi8(r[2], r[3]), d = _mm512_unpackhi_epi8(r[2], r[3]);
      __m512i v[4] = {_mm512_unpacklo_epi16(a, c), _mm512_unpackhi_epi16(a, c), _mm512_unpacklo_epi16(b, d),
                      _mm512_unpackhi_epi16(b, d)};
      transpose_quarters(v);
      for (int64_t q = 0; q < 4; ++q) _mm512_storeu_si512(panel + 64 * q, v[q]);
    }
  }
}

// A forward line holds, for each four n, a 4 x 4 block of bytes: transposed within its 16 bytes, then gathered.
void weight_to_panels_avx512(const int8_t* panels, int64_t n, int64_t k, uint8_t* out, int64_t panel_begin,
                             int64_t panel_end) {
  const int64_t lines = padded64(n), k_padded = padded64(k);
  const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    for (int64_t block = 0; block < lines; block += 64) {
      const int8_t* source = panels + block * k_padded + p * 64 * 64;
      for (int64_t part = 0; part < 64; part += 16) {
        uint8_t* target = out + p * 64 * lines + (block + part) * 64;
        for (int64_t k4 = 0; k4 < 16; k4 += 4) {
          __m512i v[4];
          for (int64_t c = 0; c < 4; ++c) {
            const __m512i line = _mm512_loadu_si512(source + (k4 + c) * 256 + part * 4);
            v[c] = _mm512_shuffle_epi8(_mm512_xor_si512(line, flip), order);
          }
          transpose_quarters(v);
          for (int64_t q = 0; q < 4; ++q) _mm512_storeu_si512(target + q * 256 + k4 * 16, v[q]);
        }
      }
    }
  }
}

}  // namespace torchqat::cpu
