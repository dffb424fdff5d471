// Packing weights into panels: the avx512 path.
#include "cpu/kernels/pack_s8_generic.h"
#include "cpu/kernels/transpose16_avx512.h"

namespace torchqat::cpu {
namespace {

struct Avx512Block {
  // A 16 x 16 transposition of 4-byte groups.
  static void transpose(const int8_t* rows, int64_t ld, int8_t* out, int32_t* sums) {
    __m512i r[16];
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(rows + i * ld);
    __m512i sum = _mm512_loadu_si512(sums);
    const __m512i ones = _mm512_set1_epi8(1);
    transpose16(r, [&](int k4, __m512i line) __attribute__((always_inline)) {
      sum = _mm512_dpbusd_epi32(sum, ones, line);
      _mm512_storeu_si512(out + k4 * 256, line);
    });
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
