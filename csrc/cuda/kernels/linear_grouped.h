// Linear layers on weights in groups along K, over the CPU's packed layout (cpu/kernels/grouped_layout.h): codes of 8, 4, 3 or 2
// bits are unpacked in registers. No torch, no word back to the host: what is invalid gives NaN.
#pragma once
#include "cpu/kernels/grouped_layout.h"
#include "cuda/kernels/affine.h"
#include "cuda/kernels/int8_gemm.h"

namespace torchqat::cuda {

struct LinearGrouped {
  int64_t m = 0, n = 0, k = 0, groups = 0;
  const uint8_t* packed = nullptr;  // group size, bits and sign are read from its header; the other words must be `header`'s
  int64_t bytes = 0;
  HeaderWords header{};
  bool whole_tiles = false;         // as far as the sizes tell, groups are whole steps of 32 k: worth tensor cores
  cpu::GroupedScale scale;          // device
  cpu::GroupedScale zero_point;     // device, float32, of float inputs only; data absent: 0
  // Integer inputs: u8 codes [m, lda] with a scale (NaN: the row is NaN) and a stored zero point per row.
  const uint8_t* codes = nullptr;
  int64_t lda = 0;
  const float* row_scale = nullptr;
  const int32_t* row_zero_point = nullptr;
  // Float inputs, where codes is absent: [m, k] of `type`.
  const void* input = nullptr;
  Float type = Float::f32;          // of the output too: f32, bf16 or f16
  const float* bias = nullptr;      // [n] or absent
  void* out = nullptr;              // [m, n]
};
void linear_grouped(const LinearGrouped& args, Stream stream);
void linear_grouped_codes(const LinearGrouped& args, Stream stream);

// Codes int8 [n, k] to the packed form of `layout` (8 bits, signed), behind its header.
struct PackGrouped {
  const int8_t* codes = nullptr;
  cpu::GroupedLayout layout;
  HeaderWords header{};
  uint8_t* packed = nullptr;
};
void pack_grouped(const PackGrouped& args, Stream stream);

}  // namespace torchqat::cuda
