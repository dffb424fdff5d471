// Weights in groups: the scalar path.
#include "cpu/kernels/quantize_groups_generic.h"

namespace torchqat::cpu {

bool group_scales_scalar(const GroupScales& g, int64_t begin, int64_t end) { return run_group_scales(g, begin, end); }
void quantize_groups_scalar(const QuantizeRows& q, int64_t begin, int64_t end) { run_quantize_groups(q, begin, end); }

}  // namespace torchqat::cpu
