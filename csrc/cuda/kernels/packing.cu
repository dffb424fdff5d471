// Bit streams and embedding look-ups: a thread takes eight codes, which fill whole bytes.
#include "cuda/kernels/packing.h"

#include "cuda/kernels/lane.cuh"
#include "numerics/affine.h"
#include "numerics/packing.h"

namespace torchqat::cuda {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads)
    pack_bits_kernel(const uint8_t* __restrict__ codes, int64_t count, int bits, uint8_t* __restrict__ out) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * packet;
  if (first >= count) return;
  uint64_t word = 0;
  for (int j = 0; j < packet && first + j < count; ++j) {
    word |= static_cast<uint64_t>(codes[first + j] & numerics::code_mask(bits)) << (bits * j);
  }
  const int64_t left = count - first < packet ? count - first : packet;
  for (int64_t i = 0; i < numerics::packed_bytes(left, bits); ++i) out[first / 8 * bits + i] = static_cast<uint8_t>(word >> (8 * i));
}

__global__ void __launch_bounds__(threads)
    unpack_bits_kernel(const uint8_t* __restrict__ in, int64_t count, int bits, bool is_signed, uint8_t* __restrict__ codes) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * packet;
  for (int j = 0; j < packet && first + j < count; ++j) {
    const int32_t stored = numerics::stored_code(in, first + j, bits);
    codes[first + j] = static_cast<uint8_t>(is_signed ? numerics::signed_code(stored, bits) : stored);
  }
}

// What the header on the device says; bits is 0 where it is not the table that the arguments describe.
struct Table {
  int bits;
  bool is_signed;
};

__device__ Table read_table(const Embedding& e) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(e.packed);
  bool same = true;
  for (int i = 0; i < 16; ++i) same &= (i >= 8 && i < 12) || words[i] == e.header.words[i];
  const int bits = static_cast<int>(words[8]);
  same &= words[9] == 0 && words[10] <= 1 && words[11] == 0 && numerics::is_packable(bits) &&
          e.bytes == 64 + e.rows * numerics::packed_bytes(e.dim, bits);
  return {same ? bits : 0, words[10] == 1};
}

// Column `column` of row `row`.
template <typename S>
__device__ S entry(const Embedding& e, Table table, int64_t row, int64_t column) {
  constexpr S nan = std::numeric_limits<S>::quiet_NaN();
  if (table.bits == 0 || row < 0 || row >= e.rows) return nan;
  const int64_t at = row * e.groups + column / e.group;
  const S scale = static_cast<const S*>(e.scale)[at];
  if (!(scale > S(0) && scale <= std::numeric_limits<S>::max())) return nan;
  const S zero_point = e.zero_point != nullptr ? static_cast<const S*>(e.zero_point)[at] : S(0);
  const uint8_t* codes = e.packed + 64 + row * numerics::packed_bytes(e.dim, table.bits);
  const int32_t stored = numerics::stored_code(codes, column, table.bits);
  return numerics::affine_value(static_cast<S>(table.is_signed ? numerics::signed_code(stored, table.bits) : stored), scale, zero_point);
}

// A thread takes one column of one row or bag: neighbours read neighbouring codes and write neighbouring values.
template <typename T>
__global__ void __launch_bounds__(threads) embedding_kernel(const __grid_constant__ Embedding e) {
  using S = Compute<T>;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int64_t number = item / e.dim, column = item % e.dim;
  if (number >= (e.bag == Bag::none ? e.count : e.bags)) return;
  const Table table = read_table(e);
  S result = S(0);
  if (e.bag == Bag::none) {
    result = entry<S>(e, table, e.indices[number], column);
  } else {
    int64_t begin = number * (e.bags > 0 ? e.count / e.bags : 0), end = begin + (e.bags > 0 ? e.count / e.bags : 0);
    bool sound = table.bits != 0;
    if (e.offsets != nullptr) {
      begin = e.offsets[number];
      end = number + 1 < e.offset_count ? e.offsets[number + 1] : e.count;
      sound &= begin >= 0 && begin <= end && end <= e.count && e.offsets[0] == 0;
    }
    int64_t taken = 0;
    for (int64_t i = begin; sound && i < end; ++i) {
      if (e.indices[i] == e.padding_index) continue;
      const S value = entry<S>(e, table, e.indices[i], column);
      if (e.bag == Bag::max) {
        result = taken == 0 || value > result || value != value ? value : result;
      } else {
        result = result + value * (e.weight != nullptr ? static_cast<const S*>(e.weight)[i] : S(1));
      }
      ++taken;
    }
    if (e.bag == Bag::mean && taken > 1) result = result / static_cast<S>(taken);
    if (!sound) result = std::numeric_limits<S>::quiet_NaN();
  }
  static_cast<T*>(e.out)[item] = narrow<T>(result);
}

}  // namespace

void pack_bits(const uint8_t* codes, int64_t count, int bits, uint8_t* out, Stream stream) {
  if (count > 0) launch(pack_bits_kernel, blocks_for(count, threads * packet), dim3(threads), stream, codes, count, bits, out);
}

void unpack_bits(const uint8_t* in, int64_t count, int bits, bool is_signed, uint8_t* codes, Stream stream) {
  if (count > 0) {
    launch(unpack_bits_kernel, blocks_for(count, threads * packet), dim3(threads), stream, in, count, bits, is_signed, codes);
  }
}

void embedding(const Embedding& e, Float type, Stream stream) {
  const int64_t items = (e.bag == Bag::none ? e.count : e.bags) * e.dim;
  if (items == 0) return;
  with_float(type, [&]<typename T>(T*) { launch(embedding_kernel<T>, blocks_for(items, threads), dim3(threads), stream, e); });
}

}  // namespace torchqat::cuda
