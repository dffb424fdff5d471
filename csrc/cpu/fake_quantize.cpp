// CPU kernels of the fake-quant family: tensors to pointers, threads.
#include "ops/torch_headers.h"

#include <numeric>

#include "cpu/block_view.h"
#include "cpu/kernels/affine_bf16.h"
#include "cpu/kernels/dynamic.h"
#include "cpu/output.h"
#include "cpu/strided_rows.h"
#include "ops/fake_quantize.h"
#include "ops/qparams.h"

namespace torchqat::cpu {
namespace {

at::Tensor empty_mask(const at::Tensor& input) {
  return result_bytes((input.numel() + 7) / 8);
}

// y is dense, x too and in the same order, or y is contiguous and x of rows; mask may be undefined.
void run(const char* op, const at::Tensor& x, const at::Tensor& y, const at::Tensor& mask, const at::Tensor& scale,
         const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  const auto q = qparams_view(op, scale, zero_point, compute_type(x), quant_min, quant_max);
  const Blocks blocks = blocks_of(y, block_size);
  const RowReader reader(x);
  const AffineArgs args{&blocks, nullptr, y.mutable_data_ptr(),
                        mask.defined() ? mask.mutable_data_ptr<uint8_t>() : nullptr, q.scale_data, q.zero_point_data,
                        static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), streams(y)};
  const auto type = float_type(x.scalar_type());
  const auto kernel = type == Float::bf16 && use_avx512_bf16() ? &fake_quantize_bf16_avx512bf16
                                                               : affine_kernels().fake_quantize[static_cast<int>(type)];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) {
    reader.pieces(begin, end, [&](const void* in, int64_t from, int64_t to) {
      AffineArgs own = args;
      own.in = in;
      kernel(own, from, to);
    });
  });
}

at::Tensor fake_quantize(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
  const at::Tensor x = readable(input);
  at::Tensor y = result_like(x);
  run("fake_quantize", x, y, {}, scale, zero_point, block_size, quant_min, quant_max);
  return y;
}

at::Tensor& fake_quantize_out(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                              at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::Tensor& out) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
  check_fake_quantize_out(input, out);
  const at::Tensor x = out.is_alias_of(input) ? dense(input) : readable(input);
  if (x.is_non_overlapping_and_dense() ? out.strides() == x.strides() : out.is_contiguous()) {
    run("fake_quantize", x, out, {}, scale, zero_point, block_size, quant_min, quant_max);
  } else {
    at::Tensor y = result_like(x);
    run("fake_quantize", x, y, {}, scale, zero_point, block_size, quant_min, quant_max);
    out.copy_(y);
  }
  return out;
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_forward(const at::Tensor& input, const at::Tensor& scale,
                                                         const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                                         int64_t quant_min, int64_t quant_max) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
  const at::Tensor x = readable(input);
  at::Tensor y = result_like(x), mask = empty_mask(x);
  run("fake_quantize", x, y, mask, scale, zero_point, block_size, quant_min, quant_max);
  return {y, mask};
}

at::Tensor fake_quantize_backward(const at::Tensor& grad, const at::Tensor& mask, at::IntArrayRef order) {
  check_fake_quantize_backward(grad, mask, order);
  const at::Tensor dy = order.empty() ? grad.contiguous() : grad.permute(order).contiguous();
  at::Tensor dx = result_like(dy);
  const at::Tensor bits = mask.contiguous();
  AffineArgs args{};
  args.in = dy.const_data_ptr();
  args.out = dx.mutable_data_ptr();
  args.mask = const_cast<uint8_t*>(bits.const_data_ptr<uint8_t>());
  args.stream = streams(dx);
  const auto kernel = affine_kernels().apply_mask[static_cast<int>(float_type(dy.scalar_type()))];
  parallel_elements(dy.numel(), [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  if (order.empty()) return dx;
  c10::SmallVector<int64_t, 5> back(order.size());
  for (size_t i = 0; i < order.size(); ++i) back[order[i]] = static_cast<int64_t>(i);
  return dx.permute(back);
}

// Blocks of whole vectors that lie one after another: one kernel. Returns how many values were not finite.
int64_t fused_vectors(const at::Tensor& x, const AffineArgs& a, bool symmetric) {
  const int64_t width = a.blocks->block[0], count = (x.numel() + width - 1) / width;
  const DynamicArgs args{a.in, a.out, a.mask, x.numel(), width, a.quant_min, a.quant_max, symmetric, a.stream};
  const auto kernel =
      select(&dynamic_scalar, &dynamic_avx2, &dynamic_avx512)->fake_quantize[static_cast<int>(float_type(x.scalar_type()))];
  std::atomic<int64_t> bad{0};
  at::parallel_for(0, count, std::max<int64_t>(1, grain / width), [&](int64_t begin, int64_t end) { bad += kernel(args, begin, end); });
  return bad;
}

// Blocks that lie one after another in memory and are small: statistics and quantising while they are in the cache.
// Returns how many values were not finite.
template <typename S, typename QParams>
int64_t fused_dynamic(const at::Tensor& x, AffineArgs args, bool symmetric, QParams qparams) {
  const Blocks& blocks = *args.blocks;
  const int type = static_cast<int>(float_type(x.scalar_type()));
  const auto min_max = range_kernels().min_max[type];
  const auto quantise = affine_kernels().fake_quantize[type];
  const int64_t width = blocks.block[0], count = (blocks.numel + width - 1) / width;
  // Pieces of whole blocks that begin at whole mask bytes and whole vectors.
  const int64_t unit = 16 / std::gcd(width, int64_t{16});
  const int64_t piece = std::max<int64_t>(1, 8192 / (width * unit)) * unit;
  std::atomic<int64_t> bad{0};
  at::parallel_for(0, (count + piece - 1) / piece, std::max<int64_t>(1, grain / (piece * width)), [&](int64_t from, int64_t to) {
    std::vector<S> room(3 * piece);
    std::vector<int32_t> zero_points(piece);
    int64_t own_bad = 0;
    for (int64_t p = from; p < to; ++p) {
      const int64_t first = p * piece, n = std::min(piece, count - first);
      S *lo = room.data(), *hi = lo + piece, *scale = hi + piece;
      std::fill_n(lo, n, std::numeric_limits<S>::infinity());
      std::fill_n(hi, n, -std::numeric_limits<S>::infinity());
      // The piece as a tensor of its own.
      Blocks local = blocks;
      local.numel = std::min(n * width, blocks.numel - first * width);
      local.size[0] = local.numel;
      local.stride[0] = 1;
      local.scales = n;
      const int64_t offset = first * width;
      AffineArgs a = args;
      a.blocks = &local;
      a.in = static_cast<const char*>(args.in) + offset * x.element_size();
      a.out = static_cast<char*>(args.out) + offset * x.element_size();
      a.mask = args.mask ? args.mask + offset / 8 : nullptr;
      a.scale = scale;
      a.zero_point = zero_points.data();
      own_bad += min_max({&local, a.in, lo, hi}, 0, local.numel);
      qparams(lo, hi, n, a.quant_min, a.quant_max, symmetric, scale, zero_points.data());
      quantise(a, 0, local.numel);
    }
    bad += own_bad;
  });
  return bad;
}

// mask may be undefined. Returns how many values were not finite.
int64_t run_dynamic(const at::Tensor& x, const at::Tensor& y, const at::Tensor& mask, at::IntArrayRef block_size,
                    int64_t quant_min, int64_t quant_max, bool symmetric) {
  const Blocks blocks = blocks_of(x, block_size);
  if (blocks.numel == 0) return 0;
  AffineArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), mask.defined() ? mask.mutable_data_ptr<uint8_t>() : nullptr,
                  nullptr, nullptr, static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), streams(y)};
  if (blocks.dims == 1 && blocks.stride[0] == 1 && blocks.block[0] <= 65536 && blocks.block[0] < blocks.numel) {
    if (blocks.block[0] % 16 == 0) return fused_vectors(x, args, symmetric);
    if (x.scalar_type() == at::kDouble) return fused_dynamic<double>(x, args, symmetric, range_kernels().qparams_f64);
    return fused_dynamic<float>(x, args, symmetric, range_kernels().qparams_f32);
  }
  c10::SmallVector<double, 64> scale(blocks.scales);  // room for floats too
  c10::SmallVector<int32_t, 64> zero_point(blocks.scales);
  const int64_t bad = block_qparams(x, blocks, quant_min, quant_max, symmetric, scale.data(), zero_point.data());
  args.scale = scale.data();
  args.zero_point = zero_point.data();
  const auto kernel = affine_kernels().fake_quantize[static_cast<int>(float_type(x.scalar_type()))];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return bad;
}

at::Tensor fake_quantize_dynamic(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                 bool symmetric) {
  check_choose_qparams("fake_quantize_dynamic", input, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, symmetric);
  const at::Tensor x = dense(input);
  at::Tensor y = result_like(x);
  run_dynamic(x, y, {}, block_size, quant_min, quant_max, symmetric);
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fake_quantize_dynamic_forward(const at::Tensor& input, at::IntArrayRef block_size,
                                                                             int64_t quant_min, int64_t quant_max, bool symmetric,
                                                                             bool save_mask) {
  check_choose_qparams("fake_quantize_dynamic", input, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, symmetric);
  const at::Tensor x = dense(input);
  at::Tensor y = result_like(x), mask;
  if (save_mask) mask = empty_mask(x);
  const int64_t bad = run_dynamic(x, y, mask, block_size, quant_min, quant_max, symmetric);
  at::Tensor nonfinite = at::empty({}, x.options().dtype(at::kLong));
  *nonfinite.mutable_data_ptr<int64_t>() = bad;
  if (!save_mask) mask = at::empty({0}, x.options().dtype(at::kByte));
  return {y, mask, nonfinite};
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("fake_quantize", &fake_quantize);
  m.impl("fake_quantize.out", &fake_quantize_out);
  m.impl("_fake_quantize_forward", &fake_quantize_forward);
  m.impl("_fake_quantize_backward", &fake_quantize_backward);
  m.impl("fake_quantize_dynamic", &fake_quantize_dynamic);
  m.impl("_fake_quantize_dynamic_forward", &fake_quantize_dynamic_forward);
}

}  // namespace
}  // namespace torchqat::cpu
