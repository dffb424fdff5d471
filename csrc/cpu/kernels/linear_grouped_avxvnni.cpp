// Linear layers on weights in groups: the avxvnni path. (Float activations have no integer products and take avx2's.)
#include "cpu/kernels/grouped_tile_avxvnni.h"
#include "cpu/kernels/linear_grouped_entry.h"

namespace torchqat::cpu {

void grouped_int8_avxvnni(const GroupedInt8& g, const GroupedRange& range) { run_grouped_int8<VnniTile>(g, range, 1); }

}  // namespace torchqat::cpu
