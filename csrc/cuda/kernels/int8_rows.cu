// The instances of the kernels around the integer GEMM.
#include "cuda/kernels/int8_rows.cuh"

namespace torchqat::cuda {
namespace {

// From so many rows on, a warp per row fills the device.
constexpr int64_t rows_for_warps = 1024;

template <typename T>
void launch_rows(const QuantizeRows& q, Stream stream) {
  const bool aligned = packets_fit(static_cast<const T*>(q.input)) && q.columns % packet == 0;
  if (q.rows >= rows_for_warps) {
    launch(quantize_rows_kernel<T, warp_size>, blocks_for(q.rows * warp_size, row_threads), dim3(row_threads), stream, q, aligned);
  } else {
    launch(quantize_rows_kernel<T, row_threads>, blocks_for(q.rows, 1), dim3(row_threads), stream, q, aligned);
  }
}

template <typename T>
bool launch_dynamic_rows(const QuantizeRows& q, bool symmetric, Stream stream) {
  const bool aligned = packets_fit(static_cast<const T*>(q.input)) && q.columns % packet == 0;
  const auto go = [&]<int group, int held>() {
    launch(quantize_rows_dynamic_kernel<T, group, held>, blocks_for(q.rows * group, row_threads), dim3(row_threads), stream, q,
           symmetric, aligned);
    return true;
  };
  // A warp has 256 values a packet; where rows are few, a block takes one.
  if (q.padded_columns <= warp_size * packet) return go.template operator()<warp_size, 1>();
  if (q.rows >= rows_for_warps && q.padded_columns <= warp_size * 4 * packet) return go.template operator()<warp_size, 4>();
  if (q.padded_columns <= row_threads * 2 * packet) return go.template operator()<row_threads, 2>();
  if (q.padded_columns <= row_threads * 4 * packet) return go.template operator()<row_threads, 4>();
  return false;
}

}  // namespace

bool quantize_rows_dynamic(const QuantizeRows& q, bool symmetric, Stream stream) {
  if (q.rows == 0) return false;
  switch (q.type) {
    case Float::bf16: return launch_dynamic_rows<Bf16>(q, symmetric, stream);
    case Float::f16: return launch_dynamic_rows<Half>(q, symmetric, stream);
    default: return launch_dynamic_rows<float>(q, symmetric, stream);
  }
}

void quantize_rows(const QuantizeRows& q, Stream stream) {
  if (q.rows == 0) return;
  switch (q.type) {
    case Float::bf16: return launch_rows<Bf16>(q, stream);
    case Float::f16: return launch_rows<Half>(q, stream);
    default: return launch_rows<float>(q, stream);
  }
}

void mask_rows(const void* in, Float in_type, const uint8_t* mask, int64_t rows, int64_t columns, void* out, Float out_type,
               Stream stream) {
  if (rows * columns == 0) return;
  with_float(in_type, [&]<typename In>(In*) {
    with_float(out_type, [&]<typename Out>(Out*) {
      launch(mask_rows_kernel<In, Out>, blocks_for(rows * columns, row_threads), dim3(row_threads), stream,
             static_cast<const In*>(in), mask, rows, columns, static_cast<Out*>(out));
    });
  });
}

void pack_weights(const PackWeights& p, Stream stream) {
  const int64_t panels = cpu::padded64(p.n) / kPanelColumns, blocks_k = cpu::padded64(p.k) / 64;
  // An empty weight has a header too.
  const dim3 grid = blocks_for(panels * blocks_k > 0 ? panels * blocks_k : 1, 1), block(row_threads);
  if (p.scale == nullptr) {
    launch(pack_weights_kernel<int8_t>, grid, block, stream, p);
  } else if (p.type == Float::bf16) {
    launch(pack_weights_kernel<Bf16>, grid, block, stream, p);
  } else if (p.type == Float::f16) {
    launch(pack_weights_kernel<Half>, grid, block, stream, p);
  } else {
    launch(pack_weights_kernel<float>, grid, block, stream, p);
  }
  if (panels > 0) {
    launch(column_sums_kernel, blocks_for(panels * cpu::segment_count(p.k), 1), dim3(row_threads), stream, p);
  }
}

}  // namespace torchqat::cuda
