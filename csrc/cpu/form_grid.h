// The grid of an integer form, read from its tensors.
#pragma once
#include <cmath>

#include "cpu/kernels/forms.h"
#include "cpu/scalar_value.h"
#include "ops/forms.h"

namespace torchqat::cpu {

inline forms::Grid form_grid(const char* op, const GridArgs& g) {
  check_form_grid(op, g);
  forms::Grid grid;
  grid.scale = float_value(g.scale);
  TORCH_CHECK_VALUE(grid.scale > 0 && std::isfinite(grid.scale), op, ": ", g.name, "scale must be finite and > 0, got ", grid.scale);
  const int64_t zero_point = integer_value(g.zero_point);
  TORCH_CHECK_VALUE(g.quant_min <= zero_point && zero_point <= g.quant_max, op, ": ", g.name, "zero_point must lie within [", g.quant_min,
                    ", ", g.quant_max, "], got ", zero_point);
  grid.zero_point = static_cast<float>(zero_point);
  grid.quant_min = static_cast<float>(g.quant_min);
  grid.quant_max = static_cast<float>(g.quant_max);
  return grid;
}

}  // namespace torchqat::cpu
