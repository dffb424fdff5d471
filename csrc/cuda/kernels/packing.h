// Streams of small codes and integer embedding tables on the device. No torch. What is invalid gives NaN.
#pragma once
#include "cuda/kernels/affine.h"
#include "cuda/kernels/int8_gemm.h"

namespace torchqat::cuda {

// The canonical stream of numerics/packing.h; codes are bytes.
void pack_bits(const uint8_t* codes, int64_t count, int bits, uint8_t* stream_out, Stream stream);
void unpack_bits(const uint8_t* stream_in, int64_t count, int bits, bool is_signed, uint8_t* codes, Stream stream);

enum class Bag { none, sum, mean, max };

// Rows of a packed table, or bags of them. Bits and signedness are read from the packed header, which must otherwise be `header`.
struct Embedding {
  const uint8_t* packed = nullptr;  // header, then [rows][ceil(dim * bits / 8)]
  int64_t bytes = 0;                // of packed
  HeaderWords header{};
  int64_t rows = 0, dim = 0, group = 1, groups = 1;
  const void* scale = nullptr;         // [rows, groups] of the compute type
  const void* zero_point = nullptr;    // the same, or absent
  const int64_t* indices = nullptr;
  int64_t count = 0;                   // indices
  Bag bag = Bag::none;
  int64_t bags = 0;
  const int64_t* offsets = nullptr;    // [bags] (a last entry may follow), or absent: bags of equal length
  int64_t offset_count = 0;
  const void* weight = nullptr;        // [count] of the compute type, or absent
  int64_t padding_index = -1;
  void* out = nullptr;                 // [count or bags, dim]
};
// type: of the output; f64 is computed in float64, all others in float32.
void embedding(const Embedding& args, Float type, Stream stream);

}  // namespace torchqat::cuda
