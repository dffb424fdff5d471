// Linear layers on weights in groups: the AMX path. One block of 16 rows x 16 columns at a time keeps its float totals
// in registers; the integer sums of several groups are computed ahead, so that the matrix unit works while earlier sums
// are converted and added.
#include "cpu/kernels/grouped_lanes_avx512.h"
#include "cpu/kernels/linear_grouped_entry.h"

namespace torchqat::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

struct AmxTile {
  // Registers 0-3: sums; 4, 5: A [16 rows][chunk]; 6, 7: B [chunk / 4][16 columns][4].
  static void configure(int64_t chunk, int64_t rows) {
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? chunk : 64);
      config.rows[t] = static_cast<uint8_t>(t < 6 ? rows : chunk / 4);
    }
    _tile_loadconfig(&config);
  }

  template <int sum>
  static TORCHQAT_INLINE void multiply(const GroupedLayout& w, const uint8_t* a, int64_t lda, const uint8_t* b,
                                       int32_t* out) {
    if constexpr (sum == 0) _tile_zero(0);
    if constexpr (sum == 1) _tile_zero(1);
    if constexpr (sum == 2) _tile_zero(2);
    if constexpr (sum == 3) _tile_zero(3);
    for (int64_t k = 0; k < w.group_padded; k += w.chunk) {
      const uint8_t *a_k = a + k, *b_k = b + k * kGroupedColumns;
      if constexpr (sum % 2 == 0) {
        _tile_loadd(4, a_k, lda);
        _tile_loadd(6, b_k, kGroupedLine);
      } else {
        _tile_loadd(5, a_k, lda);
        _tile_loadd(7, b_k, kGroupedLine);
      }
      // Register numbers are part of the mnemonic: they must be literals.
      if constexpr (sum == 0) _tile_dpbusd(0, 4, 6);
      if constexpr (sum == 1) _tile_dpbusd(1, 5, 7);
      if constexpr (sum == 2) _tile_dpbusd(2, 4, 6);
      if constexpr (sum == 3) _tile_dpbusd(3, 5, 7);
    }
    if constexpr (sum == 0) _tile_stored(0, out, 64);
    if constexpr (sum == 1) _tile_stored(1, out, 64);
    if constexpr (sum == 2) _tile_stored(2, out, 64);
    if constexpr (sum == 3) _tile_stored(3, out, 64);
  }

  // Adds one integer block to rows x 16 totals.
  template <int rows>
  static TORCHQAT_INLINE void add(const int32_t* acc, const int32_t* sums, const float* scale, const int32_t* zero_point,
                                  numerics::Vec* t) {
    keep_in_memory();
    const __m512i sum = _mm512_load_si512(sums);
    const numerics::Vec s = numerics::Vec::load(scale);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      __m512i exact = _mm512_load_si512(acc + 16 * r);
      Lanes::subtract_product(exact, sum, _mm512_set1_epi32(zero_point[r]));
      t[r] = numerics::add_group(t[r], Lanes::to_float(exact), s);
    }
  }

  // The sums of a group are computed `ahead` groups before they are converted and added.
  template <int rows>
  __attribute__((noinline)) static void block16(const GroupedLayout& w, const uint8_t* a, int64_t lda,
                                                const UnpackedBlock& block, const int32_t* zero_point, float* total) {
    constexpr int64_t ahead = 2;
    alignas(64) int32_t acc[4][256];
    const int64_t b_step = w.group_padded * kGroupedColumns, groups = block.groups;
    for (int64_t c = 0; c < kGroupedColumns; c += 16) {
      numerics::Vec t[rows];
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) t[r] = numerics::Vec::load(total + r * kGroupedColumns + c);
      const uint8_t* b = block.codes + 4 * c;
      const int32_t* sums = block.sums + c;
      const float* scale = block.scale + c;
      for (int64_t group = -ahead; group < groups; group += 4) {
        const uint8_t *a_next = a + (group + ahead) * w.group_padded, *b_next = b + (group + ahead) * b_step;
#define TORCHQAT_STEP(j)                                                                                        \
  if (group + j + ahead < groups) multiply<j>(w, a_next + j * w.group_padded, lda, b_next + j * b_step, acc[j]); \
  if (group + j >= 0 && group + j < groups) {                                                                   \
    add<rows>(acc[(j + 4 - ahead) % 4], sums + (group + j) * kGroupedColumns, scale + (group + j) * kGroupedColumns,  \
              zero_point, t);                                                                                   \
  }
        TORCHQAT_STEP(0)
        TORCHQAT_STEP(1)
        TORCHQAT_STEP(2)
        TORCHQAT_STEP(3)
#undef TORCHQAT_STEP
      }
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) t[r].store(total + r * kGroupedColumns + c);
    }
  }

  template <bool>
  static void rows(const GroupedLayout& w, const uint8_t* a, int64_t lda, int64_t rows, const UnpackedBlock& block,
                   const int32_t* zero_point, float* total) {
    for (int64_t r = 0; r < rows; r += 16) {
      const uint8_t* x = a + r * lda;
      float* t = total + r * kGroupedColumns;
      const int64_t left = rows - r;
      if (left < 16) configure(w.chunk, left);  // rows beyond the last are not read; their sums are left as they are
      if (left > 8) block16<16>(w, x, lda, block, zero_point + r, t);
      else if (left > 4) block16<8>(w, x, lda, block, zero_point + r, t);
      else block16<4>(w, x, lda, block, zero_point + r, t);
      if (left < 16) configure(w.chunk, 16);
    }
  }
};

}  // namespace

void grouped_int8_amx(const GroupedInt8& g, const GroupedRange& range) {
  AmxTile::configure(g.w.chunk, 16);
  run_grouped_int8<AmxTile>(g, range, 1);
  _tile_release();
}

}  // namespace torchqat::cpu
