// Contract of reading one row of a packed embedding table: y[j] = (q - z) * s, group by group.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

struct EmbeddingTable {
  const uint8_t* rows = nullptr;  // [count, row_bytes], each row a bit stream (numerics/packing.h)
  int64_t dim = 0, row_bytes = 0, group = 1;
  int bits = 8;
  bool is_signed = true;
};

// scale, zero_point: [ceil(dim / group)]. codes: room for dim bytes. T: float or double.
template <typename T>
void embedding_row(const EmbeddingTable& table, int64_t row, const T* scale, const T* zero_point, uint8_t* codes, T* out);

}  // namespace torchqat::cpu
