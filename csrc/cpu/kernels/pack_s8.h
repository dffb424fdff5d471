// Contract of packing weights into panels (panels.h): from int8 codes, or from floats quantised on the way, symmetric
// (zero point 0); and of reading panels back. column_sums[segment][n_padded] are the sums over each segment of K.
#pragma once
#include <cstdint>

#include "cpu/kernels/quantize_rows.h"

namespace torchqat::cpu {

struct PackedS8 {
  int64_t n = 0, k = 0;
  int8_t* panels = nullptr;
  int32_t* column_sums = nullptr;
};

struct QuantizeWeights {
  const void* weight = nullptr;  // [n, k], contiguous
  FloatType type = FloatType::float32;
  const float* scale = nullptr;  // stride apart: 0 or 1; or absent:
  float* chosen_scale = nullptr; // [n], from the weight itself, symmetric (numerics/qparams.h), written here
  int64_t stride = 0;
  float quant_min = -127.0f, quant_max = 127.0f;
  uint8_t* mask = nullptr;       // [n, ceil(k / 8)] or absent: bit 1 where the value lies within the grid
};

// Each packs panels [panel_begin, panel_end). A NaN weight becomes code 0.
using PackS8Fn = void (*)(const int8_t* codes, const PackedS8&, int64_t panel_begin, int64_t panel_end);
using QuantizePackS8Fn = void (*)(const QuantizeWeights&, const PackedS8&, int64_t panel_begin, int64_t panel_end);

void pack_s8_scalar(const int8_t*, const PackedS8&, int64_t, int64_t);
void pack_s8_avx2(const int8_t*, const PackedS8&, int64_t, int64_t);
void pack_s8_avx512(const int8_t*, const PackedS8&, int64_t, int64_t);
void quantize_pack_s8_scalar(const QuantizeWeights&, const PackedS8&, int64_t, int64_t);
void quantize_pack_s8_avx2(const QuantizeWeights&, const PackedS8&, int64_t, int64_t);
void quantize_pack_s8_avx512(const QuantizeWeights&, const PackedS8&, int64_t, int64_t);

// codes [n, k] from panels.
void unpack_s8(const int8_t* panels, int64_t n, int64_t k, int8_t* codes);

}  // namespace torchqat::cpu
