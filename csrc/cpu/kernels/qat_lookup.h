// The training form of element-wise functions over raw pointers: the table's entry of each element with what backward needs, and
// backward. No torch. Ranges begin at multiples of 16 elements.
#pragma once
#include <cstdint>

#include "cpu/kernels/forms.h"

namespace torchqat::cpu {

struct QatLookup {
  const float* input = nullptr;
  forms::Grid grid;
  const float* table = nullptr;  // [quant_max - quant_min + 1]
  float* out = nullptr;          // table[index]; NaN for NaN
  uint8_t* index = nullptr;      // q - quant_min; 0 for NaN
  uint8_t* mask = nullptr;       // a bit for each element, set where it lies within the grid
};

struct QatLookupBackward {
  const float* grad = nullptr;
  const uint8_t* index = nullptr;
  const uint8_t* mask = nullptr;
  alignas(64) float slope[256] = {};
  float* out = nullptr;  // grad * slope[index] where the bit is set, otherwise 0
};

struct QatLookupKernels {
  void (*forward)(const QatLookup& task, int64_t begin, int64_t end);
  void (*backward)(const QatLookupBackward& task, int64_t begin, int64_t end);
};

QatLookupKernels qat_lookup_scalar();
QatLookupKernels qat_lookup_avx2();
QatLookupKernels qat_lookup_avx512();

}  // namespace torchqat::cpu
