// Contract of the panels that the backward products read, from what the forward left: u8 [columns / 64][lines / 4][64][4],
// where a line is an index of the reduction. Lines beyond those given are 0, which the limbs meet with 0.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

// codes [rows, ld], lines are rows, columns k (ld >= padded k). Panels [panel_begin, panel_end); out holds
// k_padded * rows_padded bytes, both padded to 64.
using CodesToPanelsFn = void (*)(const uint8_t* codes, int64_t rows, int64_t ld, int64_t k, uint8_t* out,
                                 int64_t panel_begin, int64_t panel_end);
void codes_to_panels_scalar(const uint8_t*, int64_t, int64_t, int64_t, uint8_t*, int64_t, int64_t);
void codes_to_panels_avx2(const uint8_t*, int64_t, int64_t, int64_t, uint8_t*, int64_t, int64_t);
void codes_to_panels_avx512(const uint8_t*, int64_t, int64_t, int64_t, uint8_t*, int64_t, int64_t);

// The forward panels of a weight [n, k], transposed: lines are n, columns k, bytes q + 128.
using WeightToPanelsFn = void (*)(const int8_t* panels, int64_t n, int64_t k, uint8_t* out, int64_t panel_begin,
                                  int64_t panel_end);
void weight_to_panels_scalar(const int8_t*, int64_t, int64_t, uint8_t*, int64_t, int64_t);
void weight_to_panels_avx2(const int8_t*, int64_t, int64_t, uint8_t*, int64_t, int64_t);
void weight_to_panels_avx512(const int8_t*, int64_t, int64_t, uint8_t*, int64_t, int64_t);

}  // namespace torchqat::cpu
