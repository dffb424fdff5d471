// Fake quantisation with scales from the data in one reading, for blocks that a group of threads holds in registers: tokens, groups,
// channels of ordinary layers.
#pragma once
#include "cuda/kernels/range.h"

namespace torchqat::cuda {

struct Dynamic {
  const Blocks* blocks;
  const void* in;      // dense, memory order
  void* out;
  uint8_t* mask;       // as in AffineArgs
  int64_t* nonfinite;  // added to; or nullptr
  int32_t quant_min, quant_max;
  bool symmetric;
};
// False, and nothing is done, where blocks are too long or their packets straddle rows.
bool fake_quantize_dynamic(const Dynamic& args, Float type, Stream stream);

}  // namespace torchqat::cuda
