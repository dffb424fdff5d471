// Contract of a weight in groups as the operand of the backward product dx = dy W: q * s as 16-bit integers with one scale per
// column k, in two limbs (numerics/limbs.h), in panels.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

struct GroupedCodes {
  const int8_t* codes = nullptr;  // [n, k], contiguous
  const float* scale = nullptr;   // [n, ceil(k / group)]
  int64_t n = 0, k = 0, group = 1;
};

// largest [k padded to 64]: of |q * s| in each column, 0 beyond k. Panels [panel_begin, panel_end) of 64 columns.
using LargestOfColumnsFn = void (*)(const GroupedCodes&, float* largest, int64_t panel_begin, int64_t panel_end);
void largest_of_columns_scalar(const GroupedCodes&, float*, int64_t, int64_t);
void largest_of_columns_avx2(const GroupedCodes&, float*, int64_t, int64_t);
void largest_of_columns_avx512(const GroupedCodes&, float*, int64_t, int64_t);

// inverse [k padded to 64]: limb_inverse of the largest. out: from panel_begin on, [panel][high, low][padded n / 4][64][4], u8
// limb + 128; a column or line beyond the weight is 128.
using WeightLimbsToPanelsFn = void (*)(const GroupedCodes&, const float* inverse, uint8_t* out, int64_t panel_begin,
                                       int64_t panel_end);
void weight_limbs_to_panels_scalar(const GroupedCodes&, const float*, uint8_t*, int64_t, int64_t);
void weight_limbs_to_panels_avx2(const GroupedCodes&, const float*, uint8_t*, int64_t, int64_t);
void weight_limbs_to_panels_avx512(const GroupedCodes&, const float*, uint8_t*, int64_t, int64_t);

}  // namespace torchqat::cpu
