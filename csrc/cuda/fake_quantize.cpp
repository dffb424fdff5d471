// CUDA kernels of the fake-quant family: tensors to pointers and stream.
#include "ops/torch_headers.h"

#include "cuda/kernels/dynamic.h"
#include "cuda/statistics.h"
#include "ops/fake_quantize.h"
#include "ops/qparams.h"

namespace torchqat::cuda {
namespace {

// x and y are dense in the same order; mask may be undefined.
void run(const at::Tensor& x, const at::Tensor& y, const at::Tensor& mask, const Blocks& blocks, const void* scale,
         const void* zero_point, int64_t quant_min, int64_t quant_max, Stream stream) {
  const AffineArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(),
                        mask.defined() ? mask.mutable_data_ptr<uint8_t>() : nullptr, scale, zero_point,
                        static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
  cuda::fake_quantize(args, float_type(x.scalar_type()), stream);
}

void run(const at::Tensor& x, const at::Tensor& y, const at::Tensor& mask, const at::Tensor& scale,
         const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
         Stream stream) {
  const QParamsView q(scale, zero_point, compute_type(x));
  run(x, y, mask, blocks_of(x, block_size), q.scale_data(), q.zero_point_data(), quant_min, quant_max, stream);
}

at::Tensor fake_quantize_op(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                            at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x);
  run(x, y, {}, scale, zero_point, block_size, quant_min, quant_max, device.stream());
  return y;
}

at::Tensor& fake_quantize_out_op(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                 at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::Tensor& out) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
  check_fake_quantize_out(input, out);
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  if (out.strides() == x.strides()) {
    run(x, out, {}, scale, zero_point, block_size, quant_min, quant_max, device.stream());
  } else {
    at::Tensor y = at::empty_like(x);
    run(x, y, {}, scale, zero_point, block_size, quant_min, quant_max, device.stream());
    out.copy_(y);
  }
  return out;
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_forward_op(const at::Tensor& input, const at::Tensor& scale,
                                                            const std::optional<at::Tensor>& zero_point,
                                                            at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  check_fake_quantize("fake_quantize", input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x), mask = empty_mask(x);
  run(x, y, mask, scale, zero_point, block_size, quant_min, quant_max, device.stream());
  return {y, mask};
}

at::Tensor fake_quantize_backward_op(const at::Tensor& grad, const at::Tensor& mask, at::IntArrayRef order) {
  check_fake_quantize_backward(grad, mask, order);
  const OnDevice device(grad);
  const at::Tensor dy = order.empty() ? grad.contiguous() : grad.permute(order).contiguous();
  at::Tensor dx = at::empty_like(dy);
  const at::Tensor bits = mask.contiguous();
  apply_mask(dy.const_data_ptr(), bits.const_data_ptr<uint8_t>(), dx.mutable_data_ptr(), dy.numel(),
             float_type(dy.scalar_type()), device.stream());
  if (order.empty()) return dx;
  c10::SmallVector<int64_t, 5> back(order.size());
  for (size_t i = 0; i < order.size(); ++i) back[order[i]] = static_cast<int64_t>(i);
  return dx.permute(back);
}

// mask and nonfinite may be undefined.
void run_dynamic(const at::Tensor& x, const at::Tensor& y, const at::Tensor& mask, const at::Tensor& nonfinite,
                 at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, bool symmetric, Stream stream) {
  if (x.numel() == 0) return;
  const Blocks blocks = blocks_of(x, block_size);
  const Dynamic once{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), mask.defined() ? mask.mutable_data_ptr<uint8_t>() : nullptr,
                     nonfinite.defined() ? nonfinite.mutable_data_ptr<int64_t>() : nullptr, static_cast<int32_t>(quant_min),
                     static_cast<int32_t>(quant_max), symmetric};
  if (cuda::fake_quantize_dynamic(once, float_type(x.scalar_type()), stream)) return;
  const at::Tensor scale = at::empty({blocks.scales}, x.options().dtype(compute_type(x)));
  const at::Tensor zero_point = at::empty({blocks.scales}, x.options().dtype(at::kInt)), value = at::empty_like(scale);
  Statistics statistics;
  statistics.nonfinite = nonfinite;
  statistics.quant_min = quant_min;
  statistics.quant_max = quant_max;
  statistics.symmetric = symmetric;
  block_qparams(x, blocks, statistics, scale, zero_point, value, stream);
  run(x, y, mask, blocks, scale.const_data_ptr(), value.const_data_ptr(), quant_min, quant_max, stream);
}

at::Tensor fake_quantize_dynamic_op(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max,
                                    bool symmetric) {
  check_choose_qparams("fake_quantize_dynamic", input, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, symmetric);
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x);
  run_dynamic(x, y, {}, {}, block_size, quant_min, quant_max, symmetric, device.stream());
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fake_quantize_dynamic_forward_op(const at::Tensor& input,
                                                                                at::IntArrayRef block_size, int64_t quant_min,
                                                                                int64_t quant_max, bool symmetric,
                                                                                bool save_mask) {
  check_choose_qparams("fake_quantize_dynamic", input, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, symmetric);
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x), mask, nonfinite = at::zeros({}, x.options().dtype(at::kLong));
  if (save_mask) mask = empty_mask(x);
  run_dynamic(x, y, mask, nonfinite, block_size, quant_min, quant_max, symmetric, device.stream());
  if (!save_mask) mask = at::empty({0}, x.options().dtype(at::kByte));
  return {y, mask, nonfinite};
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("fake_quantize", &fake_quantize_op);
  m.impl("fake_quantize.out", &fake_quantize_out_op);
  m.impl("_fake_quantize_forward", &fake_quantize_forward_op);
  m.impl("_fake_quantize_backward", &fake_quantize_backward_op);
  m.impl("fake_quantize_dynamic", &fake_quantize_dynamic_op);
  m.impl("_fake_quantize_dynamic_forward", &fake_quantize_dynamic_forward_op);
}

}  // namespace
}  // namespace torchqat::cuda
