// Gradients of the training convolution on the CPU, from the codes that forward kept: in 16-bit integers on the forward's own
// kernels, or in float32 through torch.
#include "ops/qat_conv_int8.h"

#include <ATen/ops/convolution_backward.h>

#include "cpu/conv_int8.h"
#include "cpu/isa.h"
#include "cpu/kernels/conv_grad.h"
#include "cpu/kernels/depthwise_grad.h"
#include "numerics/limbs.h"

namespace torchqat {
namespace {

using namespace cpu::conv;

struct Backward {
  at::Tensor grad;          // float32, dense, in the format of codes
  at::Tensor codes;
  at::Tensor weight_codes;
  at::Tensor input_scale;   // float32 [1] or [N]
  at::Tensor zero_point;    // float32, as stored
  at::Tensor weight_scale;  // float32 [out]
  at::IntArrayRef stride, padding, dilation;
  int64_t groups;
  bool want_input, want_weight;
  const uint8_t* mask = nullptr;  // of the input, where only what lies inside the grid gets a gradient
};

struct Gradients {
  at::Tensor input, weight;
};

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
    g.input = steps ? at::zeros(b.codes.sizes(), dx.options().memory_format(format)) : dx.contiguous(format);
    if (steps) seen_pixels(g.input, b).copy_(dx);
  }
  if (b.want_weight) {
    g.weight = dw.contiguous().div_(leading(b.weight_scale, dims));
    if (!per_sample) g.weight.mul_(b.input_scale.reshape({}));
  }
  return g;
}

GradKernels grad_kernels() {
  return cpu::select(&grad_kernels_scalar, &grad_kernels_avx2, &grad_kernels_avx512, &grad_kernels_amx)();
}

// The buffers of a sample, one after the other in the scratch of the calling thread.
struct Workspace {
  uint8_t *limbs[2], *padded[2], *codes;
  int8_t* panels[2];
  int32_t* sums[2];
  float* pixels;  // of one class
};

// Splits [0, n) among threads, at least `grain` each.
template <typename Body>
void shared(int64_t n, int64_t grain, Body body) {
  at::parallel_for(0, n, grain, body);
}

class IntegerBackward {
 public:
  IntegerBackward(const Backward& b, const Plan& forward, const InputGradPlan& input_grad)
      : b_(b), forward_(forward), input_grad_(input_grad), weight_plan_(make_weight_grad_plan(forward)) {
    const int64_t padded = input_grad_.padded.codes_bytes(), class_bytes = input_grad_.whole() ? 0 : 4 * input_grad_.largest_class() * in_channels();
    const int64_t sizes[] = {out_size(), out_size(), padded, padded, weight_plan_.codes_bytes(forward_), weight_plan_.limb_bytes(),
                             weight_plan_.limb_bytes(), sums_bytes(), sums_bytes(), class_bytes};
    int64_t total = 0;
    for (int64_t size : sizes) total += (size + 127) / 64 * 64;
    uint8_t* at = thread_scratch(1, total);
    auto take = [&, i = 0]() mutable {
      uint8_t* here = at;
      at += (sizes[i++] + 127) / 64 * 64;
      return here;
    };
    for (auto& p : work_.limbs) p = take();
    for (auto& p : work_.padded) p = take();
    work_.codes = take();
    for (auto& p : work_.panels) p = reinterpret_cast<int8_t*>(take());
    for (auto& p : work_.sums) p = reinterpret_cast<int32_t*>(take());
    work_.pixels = reinterpret_cast<float*>(take());
  }

  Gradients run() {
    Gradients g;
    const auto format = b_.codes.suggest_memory_format();
    if (b_.want_input) {
      g.input = at::empty(b_.codes.sizes(), b_.grad.options(), format);
      if (input_grad_.gaps) g.input.zero_();
      for (const InputGradClass& c : input_grad_.classes) {
        packed_.push_back(at::empty({c.plan.weight.packed_bytes()}, b_.codes.options(), at::MemoryFormat::Contiguous));
        pack_class(forward_.weight, c, b_.weight_codes.const_data_ptr<int8_t>(), packed_.back().mutable_data_ptr<uint8_t>());
      }
    }
    at::Tensor sums;
    if (b_.want_weight) sums = at::zeros({weight_plan_.sums_size(forward_)}, b_.grad.options());
    for (int64_t n = 0; n < b_.codes.size(0); ++n) {
      const float scale = make_limbs(n);
      if (b_.want_input) input_gradient(n, scale, g.input);
      if (b_.want_weight) weight_gradient(n, scale, sums.mutable_data_ptr<float>());
    }
    if (b_.want_weight) g.weight = collect(sums);
    return g;
  }

 private:
  int64_t out_size() const { return forward_.weight.out_channels() * forward_.out_pixels(); }
  int64_t in_channels() const { return forward_.weight.in_channels(); }
  int64_t sums_bytes() const { return weight_plan_.groups * weight_plan_.panels * weight_plan_.chunk_count() * kPanel * 4; }
  bool channels_last() const { return b_.codes.suggest_memory_format() != at::MemoryFormat::Contiguous; }

  // Part [begin, end) of sample n's gradient: pixels of channels-last, channels otherwise.
  GradSource part(int64_t n, int64_t begin, int64_t end) const {
    const int64_t pixels = forward_.out_pixels(), channels = forward_.weight.out_channels();
    const float* scale = b_.weight_scale.const_data_ptr<float>();
    const float* values = b_.grad.const_data_ptr<float>() + n * out_size();
    if (channels_last()) return {values + begin * channels, true, end - begin, channels, scale};
    return {values + begin * pixels, false, pixels, end - begin, scale + begin};
  }

  // The limbs of sample n, padded; returns what 1 of them stands for.
  float make_limbs(int64_t n) {
    const int64_t lines = channels_last() ? forward_.out_pixels() : forward_.weight.out_channels();
    const int64_t line = out_size() / lines, grain = std::max<int64_t>(1, 16384 / line);
    std::vector<float> parts(static_cast<size_t>(at::get_num_threads()), 0.0f);
    shared(lines, grain, [&](int64_t begin, int64_t end) {
      float& mine = parts[static_cast<size_t>(at::get_thread_num())];
      mine = numerics::larger_or_nan(kernels_.largest(part(n, begin, end)), mine);
    });
    float largest = 0;
    for (float value : parts) largest = numerics::larger_or_nan(value, largest);
    const float inverse = numerics::limb_inverse(largest);
    shared(lines, grain, [&](int64_t begin, int64_t end) {
      kernels_.split(part(n, begin, end), inverse, work_.limbs[0] + begin * line, work_.limbs[1] + begin * line);
    });
    const Kernels forward = current_kernels();
    const Plan& padded = input_grad_.padded;
    const int64_t rows = padded.padded[0] * padded.padded[1];
    shared(2 * rows, std::max<int64_t>(1, rows / at::get_num_threads()), [&](int64_t begin, int64_t end) {
      uint8_t* scratch = thread_scratch(0, pad_scratch_bytes(padded));
      for (int limb = 0; limb < 2; ++limb) {
        Source s;
        s.codes = work_.limbs[limb];
        s.channels_last = channels_last();
        s.shift = 128;
        const int64_t first = std::max(begin, limb * rows) - limb * rows, last = std::min(end, (limb + 1) * rows) - limb * rows;
        if (first < last) forward.pad_rows(padded, s, first, last, work_.padded[limb], scratch);
      }
    });
    return numerics::limb_scale(largest);
  }

  void input_gradient(int64_t n, float scale, at::Tensor& grad_input) {
    const float one = 1.0f;
    float* whole = grad_input.mutable_data_ptr<float>() + n * (grad_input.numel() / grad_input.size(0));
    const Kernels forward = current_kernels();
    for (size_t i = 0; i < input_grad_.classes.size(); ++i) {
      const InputGradClass& c = input_grad_.classes[i];
      Task task;
      task.codes = work_.padded[0] + c.offset;
      task.low_codes = work_.padded[1] + c.offset;
      task.packed = packed_[i].const_data_ptr<uint8_t>();
      task.input_scale = scale;
      task.zero_point = 128;
      task.weight_scale = &one;
      task.out = input_grad_.whole() ? whole : work_.pixels;
      task.channels_last = channels_last();
      shared(c.plan.strips, 1, [&](int64_t begin, int64_t end) {
        forward.strips(c.plan, task, begin, end, thread_scratch(0, strip_scratch_bytes(c.plan)));
      });
      if (!input_grad_.whole()) scatter_class(forward_, c, input_grad_.stride, channels_last(), work_.pixels, whole);
    }
    if (b_.mask != nullptr) {
      const int64_t size = grad_input.numel() / grad_input.size(0);
      // Whole bytes of the mask to each thread.
      shared((size + 4095) / 4096, 8, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * 4096, last = std::min(size, end * 4096);
        forward.apply_mask(whole + first, last - first, b_.mask + n * ((size + 7) / 8) + first / 8);
      });
    }
  }

  void weight_gradient(int64_t n, float scale, float* sums) {
    const int64_t panels = weight_plan_.groups * weight_plan_.panels;
    const float zero_point = b_.zero_point.const_data_ptr<float>()[b_.zero_point.numel() == 1 ? 0 : n];
    Source s;
    s.codes = b_.codes.const_data_ptr<uint8_t>() + n * (b_.codes.numel() / b_.codes.size(0));
    s.channels_last = channels_last();
    s.zero_point = zero_point;
    shared(2 * panels + 1, 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        if (unit == 0) {
          kernels_.spread_codes(forward_, weight_plan_, s, work_.codes);
          continue;
        }
        const int64_t limb = (unit - 1) / panels, panel = (unit - 1) % panels;
        kernels_.panel_limbs(input_grad_.padded, weight_plan_, work_.padded[limb], panel, panel + 1, work_.panels[limb], work_.sums[limb]);
      }
    });
    WeightGradTask task;
    task.codes = work_.codes;
    for (int limb = 0; limb < 2; ++limb) {
      task.limbs[limb] = work_.panels[limb];
      task.limb_sums[limb] = work_.sums[limb];
    }
    task.zero_point = static_cast<int32_t>(zero_point);
    task.scale = scale * b_.input_scale.const_data_ptr<float>()[b_.input_scale.numel() == 1 ? 0 : n];
    task.sums = sums;
    shared(weight_plan_.units(forward_), 1, [&](int64_t begin, int64_t end) {
      kernels_.weight_grad(forward_, weight_plan_, task, begin, end, thread_scratch(0, weight_grad_scratch_bytes()));
    });
  }

  at::Tensor collect(const at::Tensor& sums) const {
    const at::Tensor grad_weight = at::empty(b_.weight_codes.sizes(), b_.grad.options());
    shared(weight_plan_.groups * weight_plan_.panels, 1, [&](int64_t begin, int64_t end) {
      kernels_.collect(forward_, weight_plan_, sums.const_data_ptr<float>(), b_.weight_scale.const_data_ptr<float>(), begin, end,
                       grad_weight.mutable_data_ptr<float>());
    });
    return grad_weight;
  }

  const Backward& b_;
  const Plan& forward_;
  const InputGradPlan& input_grad_;
  WeightGradPlan weight_plan_;
  GradKernels kernels_ = grad_kernels();
  Workspace work_{};
  std::vector<at::Tensor> packed_;  // for each class
};

// One channel each: float32 whatever was asked for, which costs nothing where memory decides.
std::optional<Gradients> depthwise_backward(const Backward& b) {
  if (b.weight_codes.size(1) != 1 || b.weight_codes.size(0) != b.groups || b.codes.numel() == 0 || b.grad.numel() == 0) return std::nullopt;
  const auto kernel = b.weight_codes.sizes().slice(2);
  const Plan forward = make_plan(weight_layout(b.groups, 1, 1, static_cast<int>(kernel.size()), dims_of(kernel, 1)),
                                 dims_of(b.codes.sizes().slice(2), 1), dims_of(b.stride, 1), dims_of(b.padding, 0),
                                 dims_of(b.dilation, 1), current_kernels().tile_rows);
  const DepthwiseGradPlan plan = make_depthwise_grad_plan(forward);
  const DepthwiseGradKernels kernels = *cpu::select(&depthwise_grad_scalar, &depthwise_grad_avx2, &depthwise_grad_avx512);
  const int64_t samples = b.codes.size(0), pitch = plan.blocks() * kDepthwiseBlock, per_sample = plan.taps * pitch;
  const bool channels_last = b.codes.suggest_memory_format() != at::MemoryFormat::Contiguous;
  const auto floats = b.weight_scale.options();
  const at::Tensor weight = at::zeros({plan.taps, pitch}, floats);
  weight.narrow(1, 0, plan.channels).copy_((b.weight_codes.reshape({plan.channels, plan.taps}).to(at::kFloat) * b.weight_scale.unsqueeze(1)).t());
  Gradients g;
  if (b.want_input) g.input = at::empty(b.codes.sizes(), floats, b.codes.suggest_memory_format());
  const at::Tensor sums = b.want_weight ? at::zeros({samples, plan.taps, pitch}, floats.dtype(at::kDouble)) : at::Tensor();
  const int64_t in_size = plan.channels * plan.in_pixels(), out_size = plan.channels * plan.out_pixels();
  DepthwiseGradTask all;
  all.grad = b.grad.const_data_ptr<float>();
  all.codes = b.codes.const_data_ptr<uint8_t>();
  all.channels_last = channels_last;
  all.weight = weight.const_data_ptr<float>();
  all.mask = b.mask;
  float* dx = b.want_input ? g.input.mutable_data_ptr<float>() : nullptr;
  double* sum = b.want_weight ? sums.mutable_data_ptr<double>() : nullptr;
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
      kernels.unit(plan, task, unit % plan.blocks(), scratch);
    }
  });
  if (b.want_input && b.mask != nullptr && channels_last && plan.channels % 16 != 0) apply_mask(g.input, b.mask);
  if (b.want_weight) {
    const at::Tensor scaled = (sums * b.input_scale.to(at::kDouble).reshape({-1, 1, 1})).sum(0).narrow(1, 0, plan.channels);
    g.weight = scaled.t().to(at::kFloat).contiguous().reshape(b.weight_codes.sizes());
  }
  return g;
}

// The integer form where it was asked for, or is the best here, and can be: depthwise and very narrow groups go to float32.
std::optional<Gradients> integer_backward(const Backward& b, std::string_view mode) {
  const bool wanted = mode == "int16" || (mode == "auto" && cpu::current_isa() >= cpu::Isa::avx512);
  if (!wanted || b.codes.numel() == 0 || b.grad.numel() == 0) return std::nullopt;
  const auto kernel = b.weight_codes.sizes().slice(2);
  const WeightLayout layout = weight_layout(b.groups, b.weight_codes.size(1), b.weight_codes.size(0) / b.groups,
                                            static_cast<int>(kernel.size()), dims_of(kernel, 1));
  const int64_t tile_rows = current_kernels().tile_rows;
  const Plan forward = make_plan(layout, dims_of(b.codes.sizes().slice(2), 1), dims_of(b.stride, 1), dims_of(b.padding, 0),
                                 dims_of(b.dilation, 1), tile_rows);
  const InputGradPlan input_grad = make_input_grad_plan(forward, tile_rows);
  if (!input_grad.possible) return std::nullopt;
  return IntegerBackward(b, forward, input_grad).run();
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
  Backward b{grad_output.to(at::kFloat).contiguous(format), codes.contiguous(format), weight_codes.contiguous(), {}, {}, {}, stride, padding, dilation,
             groups, wanted[0], wanted[1]};
  at::Tensor grad_bias = at::empty({0}, floats);
  if (wanted[2]) {
    std::vector<int64_t> all_but_channels{0};
    for (int64_t d = 2; d < codes.dim(); ++d) all_but_channels.push_back(d);
    grad_bias = b.grad.sum(all_but_channels);
  }
  const at::Tensor none = at::empty({0}, floats);
  if (!wanted[0] && !wanted[1]) return {none, none, grad_bias};
  b.input_scale = positive_scale(input_scale).reshape(-1).contiguous();
  b.zero_point = (rounded_zero_point(input_zero_point, input_quant_min, input_quant_max).to(at::kFloat) +
                  (input_quant_min < 0 ? 128.0 : 0.0)).reshape(-1).contiguous();
  b.weight_scale = positive_scale(weight_scale).reshape(-1).expand({weight_codes.size(0)}).contiguous();
  if (mask.has_value()) b.mask = mask->const_data_ptr<uint8_t>();
  std::optional<Gradients> g = depthwise_backward(b);
  if (!g.has_value()) g = integer_backward(b, backward);
  if (!g.has_value()) {
    g = float_backward(b, backward == "bfloat16");
    if (wanted[0] && b.mask != nullptr) apply_mask(g->input, b.mask);
  }
  if (wanted[1] && weight_mask.has_value()) apply_mask(g->weight, weight_mask->const_data_ptr<uint8_t>());
  return {wanted[0] ? g->input : none, wanted[1] ? g->weight : none, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CPU, m) { m.impl("_qat_conv_int8_backward", &qat_conv_backward_cpu); }

}  // namespace torchqat
