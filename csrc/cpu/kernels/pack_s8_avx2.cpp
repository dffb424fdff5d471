// Packing weights into panels: the avx2 path.
#include "cpu/kernels/pack_s8_generic.h"

namespace torchqat::cpu {

void pack_s8_avx2(const int8_t* codes, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  run_pack_s8<PlainBlock>(codes, packed, panel_begin, panel_end);
}

void quantize_pack_s8_avx2(const QuantizeWeights& q, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  run_quantize_pack_s8<PlainBlock>(q, packed, panel_begin, panel_end);
}

}  // namespace torchqat::cpu
