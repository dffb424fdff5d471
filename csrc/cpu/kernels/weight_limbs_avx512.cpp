// Limbs of a weight in groups: the avx512 path.
#include "cpu/kernels/weight_limbs_generic.h"

namespace torchqat::cpu {

void largest_of_columns_avx512(const GroupedCodes& w, float* largest, int64_t panel_begin, int64_t panel_end) {
  largest_of_columns(w, largest, panel_begin, panel_end);
}

void weight_limbs_to_panels_avx512(const GroupedCodes& w, const float* inverse, uint8_t* out, int64_t panel_begin,
                                  int64_t panel_end) {
  weight_limbs_to_panels(w, inverse, out, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
