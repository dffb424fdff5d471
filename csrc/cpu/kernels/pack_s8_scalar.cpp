// Packing weights into panels: the scalar path.
#include "cpu/kernels/pack_s8_generic.h"

namespace torchqat::cpu {

void pack_s8_scalar(const int8_t* codes, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  run_pack_s8<PlainBlock>(codes, packed, panel_begin, panel_end);
}

void quantize_pack_s8_scalar(const QuantizeWeights& q, const PackedS8& packed, int64_t panel_begin, int64_t panel_end) {
  run_quantize_pack_s8<PlainBlock>(q, packed, panel_begin, panel_end);
}

void unpack_s8(const int8_t* panels, int64_t n, int64_t k, int8_t* codes) {
  const int64_t k_padded = padded64(k);
  for (int64_t row = 0; row < n; ++row) {
    const int8_t* panel = panels + row / kPanelColumns * kPanelColumns * k_padded + row % kPanelColumns * 4;
    for (int64_t j = 0; j < k; j += 4, panel += 4 * kPanelColumns) {
      std::memcpy(codes + row * k + j, panel, static_cast<size_t>(std::min<int64_t>(4, k - j)));
    }
  }
}

}  // namespace torchqat::cpu
