// Packing weights into panels: the avx2 path.
#include <immintrin.h>

#include "cpu/kernels/pack_s8_generic.h"
#include "cpu/kernels/transpose8_avx2.h"

namespace torchqat::cpu {
namespace {

struct Avx2Block {
  static void transpose(const int8_t* rows, int64_t ld, int8_t* out, int32_t* sums) {
    for (int64_t r0 = 0; r0 < 16; r0 += 8) {
      __m256i v[2][8], sum[8];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) {
        const int8_t* row = rows + (r0 + r) * ld;
        for (int h = 0; h < 2; ++h) v[h][r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 32 * h));
        const __m256i one = _mm256_set1_epi8(1);
        const __m256i words = _mm256_add_epi16(_mm256_maddubs_epi16(one, v[0][r]), _mm256_maddubs_epi16(one, v[1][r]));
        sum[r] = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
      }
      const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[3]));
      const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(sum[4], sum[5]), _mm256_hadd_epi32(sum[6], sum[7]));
      const __m256i eight = _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
      auto* to = reinterpret_cast<__m256i*>(sums + r0);
      _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), eight));
      for (int h = 0; h < 2; ++h) store_transposed(v[h], out + h * 8 * 256 + r0 * 4, 256);
    }
  }
};

}  // namespace

void pack_s8_avx2(const int8_t* codes, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  run_pack_s8<Avx2Block>(codes, packed, panel_begin, panel_end);
}

void quantize_pack_s8_avx2(const QuantizeWeights& q, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  run_quantize_pack_s8<Avx2Block>(q, packed, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
