// Gradients of a convolution with a kernel of one pixel that neither steps nor pads: its pixels are the rows of a linear layer, whose
// products by limbs they take where channels are many or pixels few.
#include "cpu/conv_backward.h"
#include "cpu/grad_gemm.h"
#include "cpu/kernels/panels.h"
#include "cpu/output.h"

namespace torchqat::cpu::conv {
namespace {

constexpr int64_t kManyChannels = 128, kFewPixels = 256;

bool is_pointwise(const Backward& b) {
  const auto all = [](at::IntArrayRef values, int64_t value) {
    return std::all_of(values.begin(), values.end(), [&](int64_t v) { return v == value; });
  };
  return b.groups == 1 && all(b.weight_codes.sizes().slice(2), 1) && all(b.stride, 1) && all(b.padding, 0);
}

// In double, a channel by one thread.
at::Tensor bias_of(const GradProblem& p) {
  GradSource source;
  source.values = p.grad.const_data_ptr<float>();
  source.channels = p.n;
  source.pixels = p.m;
  source.channels_last = true;
  const auto kernels = grad_kernels();
  std::vector<double> sums(static_cast<size_t>(p.n), 0.0);
  at::parallel_for(0, p.n, std::max<int64_t>(16, 65536 / p.m), [&](int64_t begin, int64_t end) { kernels.channel_sums(source, begin, end, sums.data()); });
  return floats_of(sums.data(), p.n, p.grad.options());
}

}  // namespace

std::optional<Gradients> pointwise_backward(const Backward& b) {
  const int64_t samples = b.codes.size(0), k = b.codes.size(1), n = b.grad.size(1), rows = b.codes.numel() / std::max<int64_t>(k, 1);
  const bool one_pixel = rows == samples, by_pixel = one_pixel || b.codes.suggest_memory_format() != at::MemoryFormat::Contiguous;
  if (!is_pointwise(b) || !by_pixel || b.input_scale.numel() != 1 || b.zero_point.numel() != 1) return std::nullopt;
  if (k < kManyChannels && rows > kFewPixels) return std::nullopt;
  // Both lie in memory as [rows, channels].
  const auto matrix = [&](const at::Tensor& t) { return t.as_strided({rows, t.size(1)}, {t.size(1), 1}); };
  InputQParams qparams;
  qparams.scale = b.input_scale;
  qparams.zero_point = b.zero_point.to(at::kInt);
  GradProblem p;
  p.grad = matrix(b.grad);
  p.m = rows;
  p.n = n;
  p.k = k;
  const int64_t padded = padded64(k);
  if (padded == k) {
    p.codes = matrix(b.codes);
  } else {
    p.codes = result_of({rows, padded}, at::kByte);
    uint8_t* to = p.codes.mutable_data_ptr<uint8_t>();
    const uint8_t* from = b.codes.const_data_ptr<uint8_t>();
    at::parallel_for(0, rows, std::max<int64_t>(1, 32768 / padded), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        std::copy_n(from + i * k, k, to + i * padded);
        std::fill_n(to + i * padded + k, padded - k, uint8_t{0});
      }
    });
  }
  p.weight = read_int8_weight("_qat_conv_int8_backward", pack_int8_weight(b.weight_codes.reshape({n, k})));
  p.weight_scale = b.weight_scale;
  p.qparams = &qparams;
  // A sample's bits are its pixels' rows of bits where a row fills whole bytes.
  if (b.mask != nullptr && (one_pixel || k % 8 == 0)) {
    p.mask = at::from_blob(const_cast<uint8_t*>(b.mask), {rows, (k + 7) / 8}, b.codes.options());
  }
  Gradients g;
  GradResults out;
  if (b.want_input) {
    g.input = at::empty(b.codes.sizes(), b.grad.options(), b.codes.suggest_memory_format());
    out.input = matrix(g.input);
  }
  if (b.want_weight) {
    out.weight = at::empty({n, k}, b.grad.options());
    g.weight = out.weight.reshape(b.weight_codes.sizes());
  }
  grad_by_limbs(p, out);
  if (b.want_bias) g.bias = bias_of(p);
  return g;
}

}  // namespace torchqat::cpu::conv
