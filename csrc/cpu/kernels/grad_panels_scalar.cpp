// Backward panels: the scalar path.
#include "cpu/kernels/grad_panels_generic.h"

namespace torchqat::cpu {

void codes_to_panels_scalar(const uint8_t* codes, int64_t rows, int64_t ld, int64_t, uint8_t* out, int64_t panel_begin,
                        int64_t panel_end) {
  plain_codes_to_panels(codes, rows, ld, out, panel_begin, panel_end);
}

void weight_to_panels_scalar(const int8_t* panels, int64_t n, int64_t k, uint8_t* out, int64_t panel_begin,
                         int64_t panel_end) {
  plain_weight_to_panels(panels, n, k, out, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
