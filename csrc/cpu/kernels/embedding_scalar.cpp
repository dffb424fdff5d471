// One row of a packed embedding table. Plain loops: a look-up is bound by the cache misses of its rows.
#include "cpu/kernels/embedding.h"

#include <algorithm>

#include "cpu/kernels/packing.h"
#include "numerics/affine.h"

namespace torchqat::cpu {
namespace {

template <typename Code, typename T>
void dequantize(const Code* codes, int64_t dim, int64_t group, const T* scale, const T* zero_point, T* out) {
  for (int64_t begin = 0; begin < dim; begin += group, ++scale, ++zero_point) {
    const int64_t end = std::min(dim, begin + group);
    for (int64_t j = begin; j < end; ++j) out[j] = numerics::affine_value(static_cast<T>(codes[j]), *scale, *zero_point);
  }
}

}  // namespace

template <typename T>
void embedding_row(const EmbeddingTable& t, int64_t row, const T* scale, const T* zero_point, uint8_t* codes, T* out) {
  unpack_codes(t.rows + row * t.row_bytes, t.dim, t.bits, t.is_signed, codes);
  if (t.is_signed) {
    dequantize(reinterpret_cast<const int8_t*>(codes), t.dim, t.group, scale, zero_point, out);
  } else {
    dequantize(codes, t.dim, t.group, scale, zero_point, out);
  }
}

template void embedding_row<float>(const EmbeddingTable&, int64_t, const float*, const float*, uint8_t*, float*);
template void embedding_row<double>(const EmbeddingTable&, int64_t, const double*, const double*, uint8_t*, double*);

}  // namespace torchqat::cpu
