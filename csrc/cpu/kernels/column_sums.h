// Sums of float columns in double, for the gradients of biases: what cancels in them leaves no error behind. Included by ISA files.
#pragma once
#include <algorithm>
#include <cstdint>

namespace torchqat::cpu {
namespace {

// sums[c] += values[0][c] + values[1][c] + ..., one row after another, whatever the vector size. Rows are pitch floats apart.
inline void add_column_sums(const float* values, int64_t pitch, int64_t rows, int64_t columns, double* sums) {
  constexpr int64_t width = 32;  // columns whose sums stay in registers
  for (int64_t first = 0; first < columns; first += width) {
    const float* from = values + first;
    double some[width] = {};
    if (columns - first >= width) {
      for (int64_t i = 0; i < rows; ++i, from += pitch) {
#pragma GCC unroll 32
        for (int64_t j = 0; j < width; ++j) some[j] += static_cast<double>(from[j]);
      }
    } else {
      for (int64_t i = 0; i < rows; ++i, from += pitch) {
        for (int64_t j = 0; j < columns - first; ++j) some[j] += static_cast<double>(from[j]);
      }
    }
    for (int64_t j = 0; j < std::min(width, columns - first); ++j) sums[first + j] += some[j];
  }
}

}  // namespace
}  // namespace torchqat::cpu
