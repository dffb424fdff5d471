// Gradients of the training convolution with the output gradient in bfloat16, where the CPU multiplies that.
#include "ops/qat_conv_int8.h"

#include "cpu/conv_backward.h"
#include "cpu/isa.h"
#include "cpu/kernels/conv_bf16.h"

namespace torchqat::cpu::conv {
namespace {

// Weight codes int8 [out, filter] as bfloat16, the two bytes of each in rows of their own: [out, 2, filter].
std::vector<int8_t> bf16_bytes(const at::Tensor& codes) {
  const int64_t out = codes.size(0), filter = codes.numel() / out;
  const int8_t* from = codes.const_data_ptr<int8_t>();
  std::vector<int8_t> bytes(static_cast<size_t>(2 * codes.numel()));
  for (int64_t o = 0; o < out; ++o) {
    int8_t* to = bytes.data() + 2 * o * filter;
    for (int64_t i = 0; i < filter; ++i) {
      const uint16_t bits = c10::BFloat16(static_cast<float>(from[o * filter + i])).x;
      to[i] = static_cast<int8_t>(bits & 0xff);
      to[filter + i] = static_cast<int8_t>(bits >> 8);
    }
  }
  return bytes;
}

class Bf16Backward {
 public:
  // doubled: the forward's plan with two output channels of a byte for each of its own; input_grad: made from it.
  Bf16Backward(const Backward& b, const Plan& forward, const Plan& doubled, const InputGradPlan& input_grad)
      : b_(b), forward_(forward), doubled_(doubled), input_grad_(input_grad), weight_plan_(make_weight_grad_plan(forward)) {
    for (const Run& run : weight_plan_.runs) runs_.push_back({2 * run.a, 2 * run.w, 2 * run.groups});
    const int64_t sizes[] = {input_grad.padded.codes_bytes(), 2 * weight_plan_.codes_bytes(forward), 2 * weight_plan_.limb_bytes(),
                             input_grad.whole() ? 0 : 4 * input_grad.largest_class() * forward.weight.in_channels()};
    uint8_t** const parts[] = {&planes_, &codes_, &panels_, &pixels_};
    int64_t total = 0;
    for (int64_t size : sizes) total += (size + 127) / 64 * 64;
    uint8_t* at = thread_scratch(1, total);
    for (size_t i = 0; i < 4; ++i) {
      *parts[i] = at;
      at += (sizes[i] + 127) / 64 * 64;
    }
    // Beyond the last plane full tiles read what meets weights of zero: it must be numbers.
    const int64_t used = input_grad.padded.weight.planes * input_grad.padded.plane_bytes;
    std::memset(planes_ + used, 0, static_cast<size_t>(sizes[0] - used));
  }

  Gradients run() {
    Gradients g;
    std::vector<at::Tensor> packed;
    if (b_.want_input) {
      g.input = at::empty(b_.codes.sizes(), b_.grad.options(), b_.codes.suggest_memory_format());
      if (input_grad_.gaps) g.input.zero_();
      const std::vector<int8_t> bytes = bf16_bytes(b_.weight_codes);
      for (const InputGradClass& c : input_grad_.classes) {
        packed.push_back(at::empty({c.plan.weight.packed_bytes()}, b_.codes.options(), at::MemoryFormat::Contiguous));
        pack_class(doubled_.weight, c, bytes.data(), filter_order(b_.weight_codes), packed.back().mutable_data_ptr<uint8_t>());
      }
    }
    const at::Tensor sums = b_.want_weight ? at::zeros({weight_plan_.sums_size(forward_)}, b_.grad.options()) : at::Tensor();
    std::vector<double> bias(b_.want_bias ? static_cast<size_t>(forward_.weight.out_channels()) : 0, 0.0);
    for (int64_t n = 0; n < b_.codes.size(0); ++n) {
      const GradSource source = grad_of(n);
      if (b_.want_bias) grads_.channel_sums(source, 0, source.channels, bias.data());
      const int64_t rows = input_grad_.padded.padded[0] * input_grad_.padded.padded[1];
      at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
        kernels_.pad(input_grad_.padded, source, begin, end, planes_, thread_scratch(0, bf16_pad_scratch_bytes(input_grad_.padded)));
      });
      if (b_.want_input) input_gradient(n, packed, g.input);
      if (b_.want_weight) weight_gradient(n, sums.mutable_data_ptr<float>());
    }
    if (b_.want_weight) {
      g.weight = at::empty(b_.weight_codes.sizes(), b_.grad.options(), b_.weight_codes.suggest_memory_format());
      const FilterOrder order = filter_order(b_.weight_codes);
      at::parallel_for(0, weight_plan_.collect_units(forward_), 4, [&](int64_t begin, int64_t end) {
        grads_.collect(forward_, weight_plan_, sums.const_data_ptr<float>(), b_.weight_scale.const_data_ptr<float>(), order, begin, end,
                       g.weight.mutable_data_ptr<float>());
      });
    }
    if (b_.want_bias) g.bias = floats_of(bias.data(), static_cast<int64_t>(bias.size()), b_.grad.options());
    return g;
  }

 private:
  bool channels_last() const { return b_.codes.suggest_memory_format() != at::MemoryFormat::Contiguous; }

  GradSource grad_of(int64_t n) const {
    const int64_t pixels = forward_.out_pixels(), channels = forward_.weight.out_channels();
    return {b_.grad.const_data_ptr<float>() + n * pixels * channels, channels_last(), pixels, channels, b_.weight_scale.const_data_ptr<float>()};
  }

  void input_gradient(int64_t n, const std::vector<at::Tensor>& packed, at::Tensor& grad_input) {
    const int64_t size = grad_input.numel() / grad_input.size(0);
    float* whole = grad_input.mutable_data_ptr<float>() + n * size;
    auto* pixels = reinterpret_cast<float*>(pixels_);
    for (size_t i = 0; i < input_grad_.classes.size(); ++i) {
      const InputGradClass& c = input_grad_.classes[i];
      at::parallel_for(0, c.plan.strips, 1, [&](int64_t begin, int64_t end) {
        kernels_.strips(c.plan, planes_ + c.offset, packed[i].const_data_ptr<uint8_t>(), channels_last(), begin, end,
                        input_grad_.whole() ? whole : pixels, thread_scratch(0, strip_scratch_bytes(c.plan)));
      });
      if (!input_grad_.whole()) scatter_class(forward_, c, input_grad_.stride, channels_last(), pixels, whole);
    }
    if (b_.mask == nullptr) return;
    // Whole bytes of the mask to each thread.
    at::parallel_for(0, (size + 4095) / 4096, 8, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * 4096, last = std::min(size, end * 4096);
      current_kernels().apply_mask(whole + first, last - first, b_.mask + n * ((size + 7) / 8) + first / 8);
    });
  }

  void weight_gradient(int64_t n, float* sums) {
    Source s;
    s.codes = b_.codes.const_data_ptr<uint8_t>() + n * (b_.codes.numel() / b_.codes.size(0));
    s.channels_last = channels_last();
    s.zero_point = b_.zero_point.const_data_ptr<float>()[b_.zero_point.numel() == 1 ? 0 : n];
    at::parallel_for(0, weight_plan_.panels() + 1, 1, [&](int64_t begin, int64_t end) {
      if (begin == 0) kernels_.spread(forward_, weight_plan_, s, codes_);
      kernels_.panels(forward_, input_grad_.padded, weight_plan_, planes_, std::max<int64_t>(begin, 1) - 1, end - 1, panels_);
    });
    Bf16WeightTask task;
    task.codes = codes_;
    task.panels = panels_;
    task.runs = runs_.data();
    task.scale = b_.input_scale.const_data_ptr<float>()[b_.input_scale.numel() == 1 ? 0 : n];
    task.sums = sums;
    at::parallel_for(0, weight_plan_.units(forward_), 1, [&](int64_t begin, int64_t end) {
      kernels_.weight_grad(forward_, weight_plan_, task, begin, end, thread_scratch(0, weight_grad_scratch_bytes()));
    });
  }

  const Backward& b_;
  const Plan& forward_;
  const Plan& doubled_;
  const InputGradPlan& input_grad_;
  WeightGradPlan weight_plan_;
  std::vector<Run> runs_;
  Bf16Kernels kernels_ = current_isa() == Isa::amx ? bf16_kernels_amx() : bf16_kernels_avx512bf16();
  GradKernels grads_ = grad_kernels();
  uint8_t *planes_ = nullptr, *codes_ = nullptr, *panels_ = nullptr, *pixels_ = nullptr;
};

}  // namespace

std::optional<Gradients> bf16_backward(const Backward& b) {
  if (!use_avx512_bf16()) return std::nullopt;
  const Plan forward = forward_plan(b);
  const WeightLayout& w = forward.weight;
  const int64_t tile_rows = current_kernels().tile_rows;
  const Plan doubled = make_plan(weight_layout(w.groups, w.group_in, 2 * w.group_out, w.spatial_dims, w.kernel), forward.in, forward.stride,
                                 forward.padding, forward.dilation, tile_rows);
  const InputGradPlan input_grad = make_input_grad_plan(doubled, tile_rows);
  if (!input_grad.possible) return std::nullopt;
  return Bf16Backward(b, forward, doubled, input_grad).run();
}

}  // namespace torchqat::cpu::conv
