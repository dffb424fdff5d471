// Gradients of the training convolution with the output gradient in 16-bit integers, on the forward's own kernels.
#include "ops/qat_conv_int8.h"

#include "cpu/conv_backward.h"
#include "cpu/isa.h"
#include "cpu/kernels/conv_grad.h"
#include "numerics/limbs.h"

namespace torchqat::cpu::conv {
namespace {

// The buffers of a sample, one after the other in the scratch of the calling thread.
struct Workspace {
  uint8_t *limbs[2], *padded[2], *codes;
  int8_t* panels[2];
  int32_t* sums[2];
  float* pixels;             // of one class
  float scale = 1;           // what 1 of the limbs stands for
  std::vector<double> bias;  // the sums of its channels
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
    weight_plan_.share_among(forward_, at::get_num_threads());
    const int64_t padded = input_grad_.padded.codes_bytes(), class_bytes = input_grad_.whole() ? 0 : 4 * input_grad_.largest_class() * in_channels();
    const int64_t sizes[] = {out_size(), out_size(), padded, padded, weight_plan_.codes_bytes(forward_), weight_plan_.limb_bytes(),
                             weight_plan_.limb_bytes(), sums_bytes(), sums_bytes(), class_bytes};
    const auto room = [](int64_t size) { return (size + 127) / 64 * 64; };
    int64_t total = 0;
    for (int64_t size : sizes) total += room(size);
    // A sample for each thread, or all threads on one.
    const int64_t threads = at::get_num_threads(), wave = b.codes.size(0) >= threads && !at::in_parallel_region() ? threads : 1;
    const int64_t weight_bytes = b.want_weight ? 4 * weight_plan_.sums_size(forward_) : 0;
    uint8_t* at = thread_scratch(1, wave * total + room(weight_bytes));
    weight_sums_ = reinterpret_cast<float*>(at);
    at += room(weight_bytes);
    work_.resize(static_cast<size_t>(wave));
    for (Workspace& w : work_) {
      auto take = [&, i = 0]() mutable {
        uint8_t* here = at;
        at += room(sizes[i++]);
        return here;
      };
      for (auto& p : w.limbs) p = take();
      for (auto& p : w.padded) p = take();
      w.codes = take();
      for (auto& p : w.panels) p = reinterpret_cast<int8_t*>(take());
      for (auto& p : w.sums) p = reinterpret_cast<int32_t*>(take());
      w.pixels = reinterpret_cast<float*>(take());
    }
  }

  Gradients run() {
    Gradients g;
    const auto format = b_.codes.suggest_memory_format();
    if (b_.want_input) {
      g.input = at::empty(b_.codes.sizes(), b_.grad.options(), format);
      if (input_grad_.gaps) g.input.zero_();
      for (const InputGradClass& c : input_grad_.classes) {
        packed_.push_back(at::empty({c.plan.weight.packed_bytes()}, b_.codes.options(), at::MemoryFormat::Contiguous));
        pack_class(forward_.weight, c, b_.weight_codes.const_data_ptr<int8_t>(), filter_order(b_.weight_codes), packed_.back().mutable_data_ptr<uint8_t>());
      }
    }
    if (b_.want_bias) bias_.assign(static_cast<size_t>(forward_.weight.out_channels()), 0.0);
    float* dx = b_.want_input ? g.input.mutable_data_ptr<float>() : nullptr;
    const int64_t samples = b_.codes.size(0), wave = static_cast<int64_t>(work_.size());
    for (int64_t n = 0; n < samples;) {
      const int64_t here = samples - n >= wave ? wave : 1;
      if (here == 1) {
        sample(n, work_[0], dx);
      } else {
        shared(here, 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) sample(n + i, work_[static_cast<size_t>(i)], dx);
        });
      }
      if (b_.want_weight) weight_gradient(n, here);
      for (int64_t i = 0; i < here && b_.want_bias; ++i) {
        const std::vector<double>& more = work_[static_cast<size_t>(i)].bias;
        std::transform(bias_.begin(), bias_.end(), more.begin(), bias_.begin(), std::plus<double>());
      }
      n += here;
    }
    if (b_.want_weight) g.weight = collect();
    if (b_.want_bias) g.bias = floats_of(bias_.data(), static_cast<int64_t>(bias_.size()), b_.grad.options());
    return g;
  }

 private:
  // Everything of sample n but the products for dw. The sample's gradient stays in the cache for what follows.
  void sample(int64_t n, Workspace& w, float* dx) {
    make_limbs(n, w);
    if (b_.want_input) input_gradient(n, w, dx + n * (b_.codes.numel() / b_.codes.size(0)));
    if (b_.want_weight) make_panels(n, w);
  }

  int64_t mask_bytes() const { return (b_.codes.numel() / b_.codes.size(0) + 7) / 8; }
  // Whether the kernels that compute dx can mask it on the way.
  bool masks_results() const {
    return channels_last() && input_grad_.whole() && in_channels() % 16 == 0 && input_grad_.padded.weight.plane_out % 16 == 0;
  }

  int64_t out_size() const { return forward_.weight.out_channels() * forward_.out_pixels(); }
  int64_t in_channels() const { return forward_.weight.in_channels(); }
  int64_t sums_bytes() const { return weight_plan_.panels() * weight_plan_.chunk_count() * kPanel * 4; }
  bool channels_last() const { return b_.codes.suggest_memory_format() != at::MemoryFormat::Contiguous; }

  int64_t lines() const { return channels_last() ? forward_.out_pixels() : forward_.weight.out_channels(); }

  // Part [begin, end) of sample n's gradient: pixels of channels-last, channels otherwise.
  GradSource part(int64_t n, int64_t begin, int64_t end) const {
    const int64_t pixels = forward_.out_pixels(), channels = forward_.weight.out_channels();
    const float* scale = b_.weight_scale.const_data_ptr<float>();
    const float* values = b_.grad.const_data_ptr<float>() + n * out_size();
    if (channels_last()) return {values + begin * channels, true, end - begin, channels, scale};
    return {values + begin * pixels, false, pixels, end - begin, scale + begin};
  }

  // The largest magnitude of sample n's gradient, and its sums for the bias: a channel's by one thread, in order.
  float largest(int64_t n, Workspace& w) {
    const int64_t parts = out_size() < 32768 || at::in_parallel_region() ? 1 : at::get_num_threads(), channels = forward_.weight.out_channels();
    if (b_.want_bias) w.bias.assign(static_cast<size_t>(channels), 0.0);
    std::vector<float> found(static_cast<size_t>(parts), 0.0f);
    const auto share = [parts](int64_t all, int64_t unit, int64_t i) { return std::min(all, (all + unit - 1) / unit * i / parts * unit); };
    shared(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        found[static_cast<size_t>(i)] = kernels_.largest(part(n, share(lines(), 1, i), share(lines(), 1, i + 1)));
        const int64_t first = share(channels, 16, i), last = share(channels, 16, i + 1);
        if (b_.want_bias && first < last) kernels_.channel_sums(part(n, 0, lines()), first, last, w.bias.data());
      }
    });
    float most = 0;
    for (float value : found) most = numerics::larger_or_nan(value, most);
    return most;
  }

  // The limbs of sample n, padded.
  void make_limbs(int64_t n, Workspace& w) {
    const int64_t lines = this->lines(), line = out_size() / lines, grain = std::max<int64_t>(1, 16384 / line);
    const float largest = this->largest(n, w);
    const float inverse = numerics::limb_inverse(largest);
    shared(lines, grain, [&](int64_t begin, int64_t end) {
      kernels_.split(part(n, begin, end), inverse, w.limbs[0] + begin * line, w.limbs[1] + begin * line);
    });
    const Kernels forward = current_kernels();
    const Plan& padded = input_grad_.padded;
    const int64_t rows = padded.padded[0] * padded.padded[1];
    shared(2 * rows, std::max<int64_t>(1, rows / at::get_num_threads()), [&](int64_t begin, int64_t end) {
      uint8_t* scratch = thread_scratch(0, pad_scratch_bytes(padded));
      for (int limb = 0; limb < 2; ++limb) {
        Source s;
        s.codes = w.limbs[limb];
        s.channels_last = channels_last();
        s.shift = 128;
        const int64_t first = std::max(begin, limb * rows) - limb * rows, last = std::min(end, (limb + 1) * rows) - limb * rows;
        if (first < last) forward.pad_rows(padded, s, first, last, w.padded[limb], scratch);
      }
    });
    w.scale = numerics::limb_scale(largest);
  }

  void input_gradient(int64_t n, const Workspace& w, float* whole) {
    const float one = 1.0f;
    const Kernels forward = current_kernels();
    for (size_t i = 0; i < input_grad_.classes.size(); ++i) {
      const InputGradClass& c = input_grad_.classes[i];
      Task task;
      task.codes = w.padded[0] + c.offset;
      task.low_codes = w.padded[1] + c.offset;
      task.packed = packed_[i].const_data_ptr<uint8_t>();
      task.input_scale = w.scale;
      task.zero_point = 128;
      task.weight_scale = &one;
      task.out = input_grad_.whole() ? whole : w.pixels;
      task.channels_last = channels_last();
      const int64_t next = n + static_cast<int64_t>(work_.size());
      if (i == 0 && next < b_.codes.size(0)) {
        task.ahead = b_.grad.const_data_ptr<float>() + next * out_size();
        task.ahead_bytes = out_size() * static_cast<int64_t>(sizeof(float));
      }
      if (b_.mask != nullptr && masks_results()) task.out_mask = b_.mask + n * mask_bytes();
      shared(c.plan.strips, 1, [&](int64_t begin, int64_t end) {
        forward.strips(c.plan, task, begin, end, thread_scratch(0, strip_scratch_bytes(c.plan)));
      });
      if (!input_grad_.whole()) scatter_class(forward_, c, input_grad_.stride, channels_last(), w.pixels, whole);
    }
    if (b_.mask != nullptr && !masks_results()) {
      const int64_t size = b_.codes.numel() / b_.codes.size(0);
      // Whole bytes of the mask to each thread.
      shared((size + 4095) / 4096, 8, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * 4096, last = std::min(size, end * 4096);
        forward.apply_mask(whole + first, last - first, b_.mask + n * mask_bytes() + first / 8);
      });
    }
  }

  float zero_point(int64_t n) const { return b_.zero_point.const_data_ptr<float>()[b_.zero_point.numel() == 1 ? 0 : n]; }

  // What the products for dw read of sample n.
  void make_panels(int64_t n, const Workspace& w) {
    const int64_t panels = weight_plan_.panels();
    Source s;
    s.codes = b_.codes.const_data_ptr<uint8_t>() + n * (b_.codes.numel() / b_.codes.size(0));
    s.channels_last = channels_last();
    s.zero_point = zero_point(n);
    // Half of the codes, the high limbs, the low limbs, half of the codes: two threads have the same to do.
    const int64_t blocks = (in_channels() + 15) / 16, half = blocks / 2;
    shared(2 * panels + blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        if (unit < half || unit >= half + 2 * panels) {
          const int64_t block = unit < half ? unit : unit - 2 * panels;
          kernels_.spread_codes(forward_, weight_plan_, s, block, block + 1, w.codes);
          continue;
        }
        const int64_t limb = (unit - half) / panels, panel = (unit - half) % panels;
        kernels_.panel_limbs(forward_, input_grad_.padded, weight_plan_, w.padded[limb], panel, panel + 1, w.panels[limb], w.sums[limb]);
      }
    });
  }

  // Adds samples [n, n + count), one after the other in every sum.
  void weight_gradient(int64_t n, int64_t count) {
    shared(weight_plan_.units(forward_), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < count; ++i) {
        const Workspace& w = work_[static_cast<size_t>(i)];
        WeightGradTask task;
        task.codes = w.codes;
        for (int limb = 0; limb < 2; ++limb) {
          task.limbs[limb] = w.panels[limb];
          task.limb_sums[limb] = w.sums[limb];
        }
        task.zero_point = static_cast<int32_t>(zero_point(n + i));
        task.scale = w.scale * b_.input_scale.const_data_ptr<float>()[b_.input_scale.numel() == 1 ? 0 : n + i];
        task.sums = weight_sums_;
        task.first = n + i == 0;
        kernels_.weight_grad(forward_, weight_plan_, task, begin, end, thread_scratch(0, weight_grad_scratch_bytes()));
      }
    });
  }

  at::Tensor collect() const {
    const at::Tensor grad_weight = at::empty(b_.weight_codes.sizes(), b_.grad.options(), b_.weight_codes.suggest_memory_format());
    const FilterOrder order = filter_order(b_.weight_codes);
    shared(weight_plan_.collect_units(forward_), 4, [&](int64_t begin, int64_t end) {
      kernels_.collect(forward_, weight_plan_, weight_sums_, b_.weight_scale.const_data_ptr<float>(), order, begin, end,
                       grad_weight.mutable_data_ptr<float>());
    });
    return grad_weight;
  }

  const Backward& b_;
  const Plan& forward_;
  const InputGradPlan& input_grad_;
  WeightGradPlan weight_plan_;
  GradKernels kernels_ = grad_kernels();
  std::vector<Workspace> work_;  // of the samples worked on at a time
  float* weight_sums_ = nullptr;  // of dw, over the samples so far
  std::vector<at::Tensor> packed_;  // for each class
  std::vector<double> bias_;        // summed over the samples so far
};

}  // namespace

std::optional<Gradients> limbs_backward(const Backward& b) {
  const Plan forward = forward_plan(b);
  InputGradPlan input_grad = make_input_grad_plan(forward, current_kernels().tile_rows);
  if (!input_grad.possible) return std::nullopt;
  for (InputGradClass& c : input_grad.classes) c.plan.share_among(at::get_num_threads());
  return IntegerBackward(b, forward, input_grad).run();
}

}  // namespace torchqat::cpu::conv
