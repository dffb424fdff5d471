// Linear layers on weights in groups: the avx2 path.
#include "cpu/kernels/grouped_lanes_avx2.h"
#include "cpu/kernels/linear_grouped_entry.h"

namespace torchqat::cpu {

void grouped_int8_avx2(const GroupedInt8& g, const GroupedRange& range) { run_grouped_int8<LaneTile>(g, range, 1); }
void grouped_float_avx2(const GroupedFloat& g, const GroupedRange& range) { run_grouped_float(g, range); }

}  // namespace torchqat::cpu
