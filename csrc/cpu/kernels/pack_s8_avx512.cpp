// Packing weights into panels: the avx512 path.
#include <immintrin.h>

#include "cpu/kernels/pack_s8_generic.h"

namespace torchqat::cpu {
namespace {

struct Avx512Block {
  // A 16 x 16 transposition of 4-byte groups.
  static void transpose(const int8_t* rows, int64_t ld, int8_t* out, int32_t* sums) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(rows + i * ld);
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // r[4 g + c], quarter q: rows 4 g ... 4 g + 3 of line 4 q + c.
    __m512i sum = _mm512_loadu_si512(sums);
    const __m512i ones = _mm512_set1_epi8(1);
    for (int c = 0; c < 4; ++c) {
      const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x44), b = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x44);
      const __m512i d = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xee), e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xee);
      const __m512i lines[4] = {_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd),
                                _mm512_shuffle_i32x4(d, e, 0x88), _mm512_shuffle_i32x4(d, e, 0xdd)};
      for (int q = 0; q < 4; ++q) {
        sum = _mm512_dpbusd_epi32(sum, ones, lines[q]);
        _mm512_storeu_si512(out + (4 * q + c) * 256, lines[q]);
      }
    }
    _mm512_storeu_si512(sums, sum);
  }
};

}  // namespace

void pack_s8_avx512(const int8_t* codes, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  run_pack_s8<Avx512Block>(codes, packed, panel_begin, panel_end);
}

void quantize_pack_s8_avx512(const QuantizeWeights& q, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  run_quantize_pack_s8<Avx512Block>(q, packed, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
