// Weights in groups: the avx512 path.
#include "cpu/kernels/quantize_groups_generic.h"

namespace torchqat::cpu {

bool group_scales_avx512(const GroupScales& g, int64_t begin, int64_t end) { return run_group_scales(g, begin, end); }
void quantize_groups_avx512(const QuantizeRows& q, int64_t begin, int64_t end) { run_quantize_groups(q, begin, end); }

}  // namespace torchqat::cpu
