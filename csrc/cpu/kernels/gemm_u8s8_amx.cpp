// u8 x s8 GEMM. AMX-INT8; a few rows are faster on VNNI, which reads each weight once.
#include "cpu/kernels/gemm_tile_amx.h"
#include "cpu/kernels/gemm_u8s8_generic.h"

namespace torchqat::cpu {
namespace {

// K is taken in parts: of one, 32 columns of a panel and 32 rows fit in the first-level cache together, so that the columns
// stay there while the rows pass.
constexpr int64_t kPart = 512;
// Rows whose sums are kept between parts.
constexpr int64_t kRowsAtOnce = 128;
constexpr int64_t kTileRows = 32;

TORCHQAT_INLINE void load_sums(const int32_t* acc) {
  constexpr int64_t stride = kPanelColumns * 4;
  _tile_loadd(0, acc, stride);
  _tile_loadd(1, acc + 16, stride);
  _tile_loadd(2, acc + 16 * kPanelColumns, stride);
  _tile_loadd(3, acc + 16 * kPanelColumns + 16, stride);
}

// 32 rows, lda bytes apart, x 32 columns x `steps` tiles of K, added to acc. `ahead`: lines wanted later, one after another.
TORCHQAT_INLINE void multiply_part(const uint8_t* a, int64_t lda, const uint8_t* b, int64_t steps, bool first, int32_t* acc,
                                   const uint8_t* ahead, int lines) {
  constexpr int64_t stride = kPanelColumns * 4;
  const uint8_t* a1 = a + 16 * lda;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    load_sums(acc);
  }
  for (int64_t s = 0; s < steps; ++s, a += 64, a1 += 64, b += 64 * kPanelColumns) {
    _tile_loadd(6, b, 256);
    _tile_loadd(4, a, lda);
    for (int l = 0; l < lines; ++l, ahead += 64) _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, b + 64, 256);
    _tile_dpbusd(1, 4, 7);
    _tile_loadd(5, a1, lda);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_stored(0, acc, stride);
  _tile_stored(1, acc + 16, stride);
  _tile_stored(2, acc + 16 * kPanelColumns, stride);
  _tile_stored(3, acc + 16 * kPanelColumns + 16, stride);
}

// Whole tiles of 32 rows, one segment of K.
void run_parts(const GemmU8S8& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  alignas(64) int32_t acc[kRowsAtOnce * kPanelColumns];
  AmxTile tile;
  tile.configure(16, 16);
  const int64_t panel_bytes = g.k_padded * kPanelColumns;
  for (int64_t i = row_begin; i < row_end; i += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, row_end - i);
    for (int64_t p = panel_begin; p < panel_end; ++p) {
      const PanelColumns columns(g, p);
      const auto* panel = reinterpret_cast<const uint8_t*>(g.panels) + p * panel_bytes;
      // The next panel is asked for as this one's tiles go by: so many lines a step.
      const int64_t all_steps = 2 * (rows / kTileRows) * (g.k_padded / 64);
      const int lines = p + 1 < panel_end ? static_cast<int>((g.k_padded + all_steps - 1) / all_steps) : 0;
      const uint8_t* ahead = panel + (lines > 0 ? panel_bytes : 0);
      for (int64_t k = 0; k < g.k_padded; k += kPart) {
        const int64_t steps = (std::min(kPart, g.k_padded - k)) / 64;
        for (int64_t from = 0; from < kPanelColumns; from += 32) {
          for (int64_t r = 0; r < rows; r += kTileRows) {
            multiply_part(g.a + (i + r) * g.lda + k, g.lda, panel + k * kPanelColumns + 4 * from, steps, k == 0,
                          acc + r * kPanelColumns + from, ahead, lines);
            ahead += lines * 64 * steps;
          }
        }
      }
      const int32_t* sums = g.column_sums + p * kPanelColumns;
      for (int64_t r = 0; r < rows; ++r) {
        const int32_t zero_point = g.a_zero_point[(i + r) * g.a_stride];
        const int32_t* row_acc = acc + r * kPanelColumns;
        finish_row(g, i + r, columns, [&](int64_t j) { return Vec::load_s32_minus(row_acc + j, sums + j, zero_point); });
      }
    }
  }
}

}  // namespace

void gemm_u8s8_amx(const GemmU8S8& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  const int64_t rows = row_end - row_begin;
  if (rows <= 6) return gemm_u8s8_avx512(g, row_begin, row_end, panel_begin, panel_end);
  const int64_t whole = g.k_padded > 0 && g.k_padded <= kSegment && rows >= 2 * kTileRows ? rows / kTileRows * kTileRows : 0;
  if (whole > 0) run_parts(g, row_begin, row_begin + whole, panel_begin, panel_end);
  if (whole < rows) run_gemm_u8s8<AmxTile, U8S8>(g, row_begin + whole, row_end, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
