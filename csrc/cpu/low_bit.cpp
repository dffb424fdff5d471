// CPU kernels of the low-bit ops: blocks to contiguous rows, threads.
#include "ops/torch_headers.h"

#include "cpu/block_view.h"
#include "cpu/kernels/low_bit.h"
#include "ops/block_rows.h"
#include "ops/low_bit.h"
#include "ops/qparams.h"

namespace torchqat::cpu {
namespace {

const LowBitKernels& kernels() { return *select(&low_bit_scalar, &low_bit_avx2, &low_bit_avx512); }

template <typename Kernel>
void run_rows(const at::Tensor& input, at::IntArrayRef block_size, const at::Tensor& scale, RowsArgs args, Kernel kernel) {
  const int64_t count = scale.numel();
  const auto rows = block_rows(input, block_size, count);
  args.in = rows.values.const_data_ptr();
  args.length = rows.values.size(1);
  args.count = rows.count.defined() ? rows.count.const_data_ptr<int64_t>() : nullptr;
  args.scale = scale.mutable_data_ptr();
  const int64_t tiles = (args.length + tile - 1) / tile;
  if (count < at::get_num_threads() && tiles >= 64 && !at::in_parallel_region()) {  // too few rows for the threads: they share tiles
    std::vector<double> room(tiles * most_tile_sums);
    args.tile_sums = room.data();
    args.share = [](int64_t n, void (*run)(const void*, int64_t, int64_t), const void* work) {
      at::parallel_for(0, n, 8, [&](int64_t begin, int64_t end) { run(work, begin, end); });
    };
    kernel(args, 0, count);
    return;
  }
  at::parallel_for(0, count, std::max<int64_t>(1, 2048 / args.length),
                   [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

std::tuple<at::Tensor, at::Tensor> choose_qparams_mse(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min,
                                                      int64_t quant_max, bool symmetric) {
  const auto shape = C10_AS_INTARRAYREF_SLOW(check_choose_qparams("choose_qparams_mse", input, c10::fromIntArrayRefSlow(block_size),
                                                                  quant_min, quant_max, symmetric));
  at::Tensor scale = at::ones(shape, input.options().dtype(compute_type(input)));
  at::Tensor zero_point = at::full(shape, std::clamp<int64_t>(0, quant_min, quant_max), input.options().dtype(at::kInt));
  if (input.numel() == 0) return {scale, zero_point};
  RowsArgs args{};
  args.quant_min = static_cast<int32_t>(quant_min);
  args.quant_max = static_cast<int32_t>(quant_max);
  args.symmetric = symmetric;
  args.zero_point = zero_point.mutable_data_ptr<int32_t>();
  run_rows(input, block_size, scale, args, kernels().mse_qparams[static_cast<int>(float_type(input.scalar_type()))]);
  return {scale, zero_point};
}

at::Tensor choose_scale_binary(const at::Tensor& input, at::IntArrayRef block_size) {
  const auto shape =
      C10_AS_INTARRAYREF_SLOW(check_choose_scale("choose_scale_binary", input, c10::fromIntArrayRefSlow(block_size)));
  at::Tensor scale = at::ones(shape, input.options().dtype(compute_type(input)));
  if (input.numel() == 0) return scale;
  run_rows(input, block_size, scale, RowsArgs{}, kernels().binary_scales[static_cast<int>(float_type(input.scalar_type()))]);
  return scale;
}

at::Tensor fake_quantize_binary(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size) {
  check_fake_quantize_binary(input, scale, c10::fromIntArrayRefSlow(block_size));
  const auto q = qparams_view("fake_quantize_binary", scale, std::nullopt, compute_type(input), 0, 1);
  const at::Tensor x = dense(input);
  at::Tensor y = output_like(x);
  const Blocks blocks = blocks_of(x, block_size);
  AffineArgs args{};
  args.blocks = &blocks;
  args.in = x.const_data_ptr();
  args.out = y.mutable_data_ptr();
  args.scale = q.scale_data;
  args.stream = streams(y);
  const auto kernel = kernels().fake_quantize_binary[static_cast<int>(float_type(x.scalar_type()))];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("choose_qparams_mse", &choose_qparams_mse);
  m.impl("choose_scale_binary", &choose_scale_binary);
  m.impl("fake_quantize_binary", &fake_quantize_binary);
}

}  // namespace
}  // namespace torchqat::cpu
