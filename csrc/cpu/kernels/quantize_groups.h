// Contract of weights in short groups along their rows: scales of groups from their data, and codes of groups. Every group is
// a line of its own: `group` values, a multiple of 16, group after group.
#pragma once
#include <cstdint>

#include "cpu/kernels/quantize_rows.h"

namespace torchqat::cpu {

struct GroupScales {
  const void* input = nullptr;  // [groups, group]
  FloatType type = FloatType::float32;
  int64_t group = 0;
  float quant_min = 0, quant_max = 0;
  float* scale = nullptr;       // [groups], symmetric (numerics/qparams.h)
};

// Groups [begin, end). False, and nothing to rely on, where a value is not finite.
using GroupScalesFn = bool (*)(const GroupScales&, int64_t begin, int64_t end);

// As quantize_rows with signed codes, no zero point, a scale per row and rows that are groups; q.columns is the group.
using QuantizeGroupsFn = void (*)(const QuantizeRows&, int64_t begin, int64_t end);

bool group_scales_scalar(const GroupScales&, int64_t, int64_t);
bool group_scales_avx2(const GroupScales&, int64_t, int64_t);
bool group_scales_avx512(const GroupScales&, int64_t, int64_t);
void quantize_groups_scalar(const QuantizeRows&, int64_t, int64_t);
void quantize_groups_avx2(const QuantizeRows&, int64_t, int64_t);
void quantize_groups_avx512(const QuantizeRows&, int64_t, int64_t);

}  // namespace torchqat::cpu
