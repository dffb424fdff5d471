// Sums of float columns in double, for the gradients of biases: what cancels in them leaves no error behind. Included by ISA files.
#pragma once
#include <algorithm>
#include <cstdint>

namespace torchqat::cpu {
namespace {

template <int64_t Width>
inline void add_columns(const float* values, int64_t pitch, int64_t rows, double* sums) {
  double some[Width];  // in registers
  for (int64_t j = 0; j < Width; ++j) some[j] = sums[j];
  for (int64_t i = 0; i < rows; ++i, values += pitch) {
#pragma GCC unroll 32
    for (int64_t j = 0; j < Width; ++j) some[j] += static_cast<double>(values[j]);
  }
  for (int64_t j = 0; j < Width; ++j) sums[j] = some[j];
}

// sums[c] += values[0][c], then values[1][c], ..., one row after another, whatever the vector size. Rows are pitch floats apart; a few
// of them at a time, so that memory is read in its order.
inline void add_column_sums(const float* values, int64_t pitch, int64_t rows, int64_t columns, double* sums) {
  constexpr int64_t together = 32;
  for (int64_t row = 0; row < rows; row += together) {
    const float* from = values + row * pitch;
    const int64_t here = std::min(together, rows - row);
    int64_t c = 0;
    for (; c + 32 <= columns; c += 32) add_columns<32>(from + c, pitch, here, sums + c);
    for (; c + 8 <= columns; c += 8) add_columns<8>(from + c, pitch, here, sums + c);
    const int64_t left = columns - c;
    for (int64_t i = 0; left > 0 && i < here; ++i) {
      for (int64_t j = 0; j < left; ++j) sums[c + j] += static_cast<double>(from[i * pitch + c + j]);
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu
