// Gradients of the training convolution on the CPU, from the codes that forward kept: which way, and those in float32, through
// torch or (depthwise) a kernel of its own.
#include "ops/qat_conv_int8.h"

#include <ATen/ops/convolution_backward.h>

#include "cpu/conv_backward.h"
#include "cpu/isa.h"
#include "cpu/kernels/depthwise_grad.h"

namespace torchqat {
namespace cpu::conv {

at::Tensor floats_of(const double* values, int64_t n, const at::TensorOptions& options) {
  at::Tensor result = at::empty({n}, options);
  std::copy_n(values, n, result.mutable_data_ptr<float>());
  return result;
}

GradKernels grad_kernels() {
  return select(&grad_kernels_scalar, &grad_kernels_avx2, &grad_kernels_avxvnni, &grad_kernels_avx512, &grad_kernels_amx)();
}

Plan forward_plan(const Backward& b) {
  const auto kernel = b.weight_codes.sizes().slice(2);
  const WeightLayout layout = weight_layout(b.groups, b.weight_codes.size(1), b.weight_codes.size(0) / b.groups,
                                            static_cast<int>(kernel.size()), dims_of(kernel, 1));
  return make_plan(layout, dims_of(b.codes.sizes().slice(2), 1), dims_of(b.stride, 1), dims_of(b.padding, 0), dims_of(b.dilation, 1),
                   current_kernels().tile_rows);
}

}  // namespace cpu::conv

namespace {

using namespace cpu::conv;

// Values [rows, elements] in memory order, each row with its own bits.
void apply_mask(at::Tensor& values, const uint8_t* bits) {
  const int64_t rows = values.size(0), elements = rows == 0 ? 0 : values.numel() / rows, bytes = (elements + 7) / 8;
  float* data = values.mutable_data_ptr<float>();
  const Kernels kernels = current_kernels();
  at::parallel_for(0, rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(elements, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) kernels.apply_mask(data + r * elements, elements, bits + r * bytes);
  });
}

// [entries] as [entries, 1, ...] of `dims` dimensions; one element broadcasts.
at::Tensor leading(const at::Tensor& t, int64_t dims) {
  std::vector<int64_t> shape(static_cast<size_t>(dims), 1);
  shape[0] = t.numel();
  return t.reshape(shape);
}

// Whether the kernel is one pixel that steps over others: then it sees only some of the input's pixels, and is on those a
// kernel that does not step. torch's own way of stepping may write beyond its buffers on several threads (2.13, 1x1 weight
// gradient of oneDNN), so it is not given such a convolution.
bool steps_over_pixels(const Backward& b) {
  const auto one = [](int64_t size) { return size == 1; };
  const auto kernel = b.weight_codes.sizes().slice(2);
  return std::all_of(kernel.begin(), kernel.end(), one) && !std::all_of(b.stride.begin(), b.stride.end(), one) &&
         std::all_of(b.padding.begin(), b.padding.end(), [](int64_t pad) { return pad == 0; });
}

at::Tensor seen_pixels(at::Tensor input, const Backward& b) {
  for (int64_t d = 2; d < input.dim(); ++d) {
    const int64_t stride = b.stride[static_cast<size_t>(d - 2)];
    input = input.slice(d, 0, (b.grad.size(d) - 1) * stride + 1, stride);
  }
  return input;
}

// Code differences are exact in bfloat16 too; the weight scale goes into the gradient, which alone is rounded. The results
// stay in float32: torch's bfloat16 convolution would round them a second time.
Gradients float_backward(const Backward& b, bool bfloat16) {
  const int64_t dims = b.codes.dim();
  const auto format = b.codes.suggest_memory_format();
  std::vector<int64_t> channel_shape(static_cast<size_t>(dims), 1);
  channel_shape[1] = b.weight_codes.size(0);
  at::Tensor scaled = b.grad * b.weight_scale.reshape(channel_shape);
  if (bfloat16) scaled = scaled.to(at::kBFloat16).to(at::kFloat);
  at::Tensor centred = b.codes.to(at::kFloat).sub_(leading(b.zero_point, dims));
  const bool per_sample = b.input_scale.numel() > 1;
  if (per_sample && b.want_weight) centred.mul_(leading(b.input_scale, dims));
  const std::vector<int64_t> output_padding(static_cast<size_t>(dims - 2), 0);
  const bool steps = steps_over_pixels(b);
  if (steps) centred = seen_pixels(centred, b).contiguous(format);
  const std::vector<int64_t> ones(static_cast<size_t>(dims - 2), 1);
  auto [dx, dw, db] =
      at::convolution_backward(scaled, centred, b.weight_codes.to(at::kFloat).contiguous(format), std::nullopt,
                               steps ? at::IntArrayRef(ones) : at::IntArrayRef(b.stride), b.padding, b.dilation, false, output_padding, b.groups, {b.want_input, b.want_weight, false});
  Gradients g;
  if (b.want_input) {
    // at::zeros would leave the format out, and the mask is in its order.
    g.input = steps ? at::empty(b.codes.sizes(), dx.options(), format).zero_() : dx.contiguous(format);
    if (steps) seen_pixels(g.input, b).copy_(dx);
  }
  if (b.want_weight) {
    g.weight = dw.contiguous(b.weight_codes.suggest_memory_format()).div_(leading(b.weight_scale, dims));
    if (!per_sample) g.weight.mul_(b.input_scale.reshape({}));
  }
  return g;
}

// One channel each: float32 whatever was asked for, which costs nothing where memory decides.
std::optional<Gradients> depthwise_backward(const Backward& b) {
  if (b.weight_codes.size(1) != 1 || b.weight_codes.size(0) != b.groups || b.codes.numel() == 0 || b.grad.numel() == 0) return std::nullopt;
  const DepthwiseGradPlan plan = make_depthwise_grad_plan(forward_plan(b));
  const DepthwiseGradKernels kernels = *cpu::select(&depthwise_grad_scalar, &depthwise_grad_avx2, &depthwise_grad_avx512);
  const int64_t samples = b.codes.size(0), pitch = plan.blocks() * kDepthwiseBlock, per_sample = plan.taps * pitch;
  const bool channels_last = b.codes.suggest_memory_format() != at::MemoryFormat::Contiguous;
  const auto floats = b.weight_scale.options();
  const at::Tensor weight = at::zeros({plan.taps, pitch}, floats);
  weight.narrow(1, 0, plan.channels).copy_((b.weight_codes.reshape({plan.channels, plan.taps}).to(at::kFloat) * b.weight_scale.unsqueeze(1)).t());
  Gradients g;
  if (b.want_input) g.input = at::empty(b.codes.sizes(), floats, b.codes.suggest_memory_format());
  const at::Tensor sums = b.want_weight ? at::zeros({samples, plan.taps, pitch}, floats.dtype(at::kDouble)) : at::Tensor();
  const at::Tensor grad_sums = b.want_bias ? at::zeros({samples, pitch}, floats.dtype(at::kDouble)) : at::Tensor();
  const int64_t in_size = plan.channels * plan.in_pixels(), out_size = plan.channels * plan.out_pixels();
  DepthwiseGradTask all;
  all.grad = b.grad.const_data_ptr<float>();
  all.codes = b.codes.const_data_ptr<uint8_t>();
  all.channels_last = channels_last;
  all.weight = weight.const_data_ptr<float>();
  all.mask = b.mask;
  float* dx = b.want_input ? g.input.mutable_data_ptr<float>() : nullptr;
  double* sum = b.want_weight ? sums.mutable_data_ptr<double>() : nullptr;
  double* grad_sum = b.want_bias ? grad_sums.mutable_data_ptr<double>() : nullptr;
  const float* zero_points = b.zero_point.const_data_ptr<float>();
  const bool shared_zero = b.zero_point.numel() == 1;
  at::parallel_for(0, samples * plan.blocks(), 1, [&](int64_t begin, int64_t end) {
    uint8_t* scratch = thread_scratch(0, plan.scratch_bytes(channels_last));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / plan.blocks();
      DepthwiseGradTask task = all;
      task.grad += n * out_size;
      task.codes += n * in_size;
      task.zero_point = zero_points[shared_zero ? 0 : n];
      if (dx != nullptr) task.dx = dx + n * in_size;
      if (task.mask != nullptr) task.mask += n * ((in_size + 7) / 8);
      if (sum != nullptr) task.sums = sum + n * per_sample;
      if (grad_sum != nullptr) task.grad_sums = grad_sum + n * pitch;
      kernels.unit(plan, task, unit % plan.blocks(), scratch);
    }
  });
  if (b.want_input && b.mask != nullptr && channels_last && plan.channels % 16 != 0) apply_mask(g.input, b.mask);
  if (b.want_weight) {
    const at::Tensor scaled = (sums * b.input_scale.to(at::kDouble).reshape({-1, 1, 1})).sum(0).narrow(1, 0, plan.channels);
    g.weight = scaled.t().to(at::kFloat).contiguous().reshape(b.weight_codes.sizes()).contiguous(b.weight_codes.suggest_memory_format());
  }
  if (b.want_bias) {
    double* total = grad_sum;
    for (int64_t n = 1; n < samples; ++n) std::transform(total, total + pitch, grad_sum + n * pitch, total, std::plus<double>());
    g.bias = floats_of(total, plan.channels, floats);
  }
  return g;
}

// In float64, as the integer ways sum it: what cancels in a channel's sum leaves no error behind.
at::Tensor bias_gradient(const Backward& b) {
  std::vector<int64_t> all_but_channels{0};
  for (int64_t d = 2; d < b.grad.dim(); ++d) all_but_channels.push_back(d);
  return b.grad.sum(all_but_channels, /*keepdim=*/false, at::kDouble).to(at::kFloat);
}

// float32 [1] or [N]: codes of signed grids are stored 128 higher.
at::Tensor stored_zero_point(const at::Tensor& zero_point, int64_t low, int64_t high) {
  const at::Tensor whole = rounded_zero_point(zero_point, low, high);
  const float shift = low < 0 ? 128.0f : 0.0f;
  at::Tensor stored = at::empty({whole.numel()}, whole.options().dtype(at::kFloat));
  float* to = stored.mutable_data_ptr<float>();
  if (whole.scalar_type() == at::kInt && whole.is_contiguous()) {
    const int* from = whole.const_data_ptr<int>();
    for (int64_t i = 0; i < stored.numel(); ++i) to[i] = static_cast<float>(from[i]) + shift;
  } else {
    stored.copy_(whole.reshape(-1)).add_(shift);
  }
  return stored;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> qat_conv_backward_cpu(
    const at::Tensor& grad_output, const at::Tensor& codes, const std::optional<at::Tensor>& mask,
    const at::Tensor& weight_codes, const std::optional<at::Tensor>& weight_mask, const at::Tensor& input_scale,
    const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, std::array<bool, 3> wanted,
    std::string_view backward) {
  check_backward_mode("_qat_conv_int8_backward", backward);
  const auto format = codes.suggest_memory_format();
  const auto floats = grad_output.options().dtype(at::kFloat);
  Backward b{grad_output.to(at::kFloat).contiguous(format), codes.contiguous(format), weight_codes.contiguous(weight_codes.suggest_memory_format()), {}, {}, {}, stride, padding, dilation,
             groups, wanted[0], wanted[1], wanted[2]};
  const auto none = [&] { return at::empty({0}, floats); };
  if (!wanted[0] && !wanted[1]) return {none(), none(), wanted[2] ? bias_gradient(b) : none()};
  b.input_scale = channel_scales(positive_scale(input_scale), input_scale.numel());
  b.zero_point = stored_zero_point(input_zero_point, input_quant_min, input_quant_max);
  b.weight_scale = channel_scales(positive_scale(weight_scale), weight_codes.size(0));
  if (mask.has_value()) b.mask = mask->const_data_ptr<uint8_t>();
  std::optional<Gradients> g = depthwise_backward(b);
  const bool integer = backward == "int16" || (backward == "auto" && cpu::current_isa() >= cpu::Isa::avxvnni);
  const bool empty = b.codes.numel() == 0 || b.grad.numel() == 0;
  if (!g.has_value() && integer && !empty) {
    g = pointwise_backward(b);
    if (g.has_value()) {
      const bool masked = b.mask == nullptr || b.codes.size(1) % 8 == 0 || b.codes.numel() == b.codes.size(0) * b.codes.size(1);
      if (wanted[0] && !masked) apply_mask(g->input, b.mask);
    } else {
      g = limbs_backward(b);
    }
  }
  if (!g.has_value() && backward == "bfloat16" && !empty) g = bf16_backward(b);
  if (!g.has_value()) {
    g = float_backward(b, backward == "bfloat16");
    if (wanted[0] && b.mask != nullptr) apply_mask(g->input, b.mask);
    if (wanted[2]) g->bias = bias_gradient(b);
  }
  if (wanted[1] && weight_mask.has_value()) apply_mask(g->weight, weight_mask->const_data_ptr<uint8_t>());
  return {wanted[0] ? g->input : none(), wanted[1] ? g->weight : none(), wanted[2] ? g->bias : none()};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CPU, m) { m.impl("_qat_conv_int8_backward", &qat_conv_backward_cpu); }

}  // namespace torchqat
