// The training convolution on the CPU: the forward of conv_int8 on codes that are kept for backward.
#include "ops/qat_conv_int8.h"

#include "cpu/conv_int8.h"

namespace torchqat {
namespace {

using namespace cpu::conv;

struct QuantizedWeight {
  at::Tensor codes;  // int8 [out, in / groups, *kernel], in the memory format of the weight
  at::Tensor mask;   // uint8 [out, bytes], in the same order
  at::Tensor scale;  // float32 [out]
};

int64_t sample_bytes(int64_t elements) { return (elements + 7) / 8; }

QuantizedWeight quantize_weight(const char* op, const at::Tensor& weight, const at::Tensor& weight_scale, int64_t low,
                                int64_t high) {
  const auto format = weight.suggest_memory_format();
  const at::Tensor w = weight.to(at::kFloat).contiguous(format);
  const int64_t out = w.size(0), filter = out == 0 ? 0 : w.numel() / out, bytes = sample_bytes(filter);
  QuantizedWeight q;
  q.scale = channel_scales(checked_scale(op, "weight_scale", weight_scale), out);
  q.codes = at::empty(w.sizes(), w.options().dtype(at::kChar), format);
  q.mask = at::empty({out, bytes}, w.options().dtype(at::kByte));
  const Kernels kernels = current_kernels();
  const float* values = w.const_data_ptr<float>();
  const float* scale = q.scale.const_data_ptr<float>();
  auto* codes = reinterpret_cast<uint8_t*>(q.codes.mutable_data_ptr<int8_t>());
  uint8_t* mask = q.mask.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, out, std::max<int64_t>(1, 16384 / std::max<int64_t>(filter, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      Source s;
      s.values = values + o * filter;
      s.scale = scale[o];
      s.quant_min = static_cast<float>(low);
      s.quant_max = static_cast<float>(high);
      s.shift = 128;
      kernels.quantize(s, filter, codes + o * filter, mask + o * bytes);
      uint8_t* own = codes + o * filter;  // of this scope: bytes may alias what a closure holds, and the loop would not be vectorised
      for (int64_t i = 0; i < filter; ++i) own[i] ^= 0x80;  // back to two's complement
    }
  });
  return q;
}

struct Forward {
  at::Tensor output, codes, mask;
  QuantizedWeight weight;
};

Forward forward(const char* op, const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool learned, bool keep) {
  check_conv_input_dtype(op, input);
  check_qat_conv(op, input, weight, weight_scale, weight_quant_min, weight_quant_max, groups);
  const auto kernel_size = weight.sizes().slice(2);
  const ConvArgs args{op, input_quant_min, input_quant_max, kernel_size, stride, padding, dilation, groups};
  check_conv_int8(args, input, weight_scale.reshape(-1).expand({weight.size(0)}), bias, input_scale, input_zero_point);
  const auto sizes = conv_output_sizes(args, input, weight.size(0));
  const auto format = input.suggest_memory_format();
  const at::Tensor zero_point = rounded_zero_point(input_zero_point, input_quant_min, input_quant_max);
  const InputQparams qparams = input_qparams(args, learned ? positive_scale(input_scale) : input_scale, zero_point);

  Forward f;
  f.weight = quantize_weight(op, weight, learned ? positive_scale(weight_scale) : weight_scale, weight_quant_min, weight_quant_max);
  const at::Tensor b = bias.has_value() && bias->defined() ? bias->to(at::kFloat).contiguous() : at::Tensor();
  const at::Tensor x = input.to(at::kFloat).contiguous(format);
  at::Tensor y = at::empty_symint(sizes, x.options(), format);
  const int64_t samples = x.size(0), sample = samples == 0 ? 0 : x.numel() / samples, bytes = sample_bytes(sample);
  const auto byte = x.options().dtype(at::kByte);
  if (keep) {
    f.codes = at::empty(x.sizes(), byte, format);
    f.mask = at::empty({samples, bytes}, byte);
  }
  BatchInput batch;
  batch.values = x.const_data_ptr<float>();
  batch.samples = samples;
  batch.sample_size = sample;
  batch.channels_last = format != at::MemoryFormat::Contiguous;
  if (keep) {
    batch.kept_codes = f.codes.mutable_data_ptr<uint8_t>();
    batch.kept_mask = f.mask.mutable_data_ptr<uint8_t>();
  }
  if (x.numel() > 0 && weight.numel() > 0) {
    const WeightLayout layout = weight_layout(groups, weight.size(1), weight.size(0) / groups,
                                              static_cast<int>(kernel_size.size()), dims_of(kernel_size, 1));
    const at::Tensor packed = at::empty({layout.packed_bytes()}, byte);
    const FilterOrder order = filter_order(f.weight.codes);
    at::parallel_for(0, pack_units(layout), std::max<int64_t>(1, 65536 / layout.panel_bytes()), [&](int64_t begin, int64_t end) {
      pack_weight_units(layout, f.weight.codes.const_data_ptr<int8_t>(), order, begin, end, packed.mutable_data_ptr<uint8_t>());
    });
    Plan plan = make_plan(layout, dims_of(x.sizes().slice(2), 1), dims_of(stride, 1), dims_of(padding, 0),
                                dims_of(dilation, 1), current_kernels().tile_rows);
    if (samples < at::get_num_threads()) plan.share_among(at::get_num_threads());
    run_batch(plan, args, batch, qparams, packed.const_data_ptr<uint8_t>(), f.weight.scale, b, {y.mutable_data_ptr<float>(), nullptr, {}});
  } else if (y.numel() > 0) {
    y.zero_();
  }
  f.output = y.to(input.scalar_type());
  return f;
}

at::Tensor qat_conv_int8_cpu(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                             const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                             const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
                             int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride,
                             at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool input_learned,
                             bool weight_learned, double, double, std::string_view backward) {
  check_backward_mode("qat_conv_int8", backward);
  return forward("qat_conv_int8", input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min,
                 input_quant_max, weight_quant_min, weight_quant_max, stride, padding, dilation, groups,
                 input_learned || weight_learned, /*keep=*/false)
      .output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> qat_conv_forward_cpu(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
    const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t input_quant_min, int64_t input_quant_max,
    int64_t weight_quant_min, int64_t weight_quant_max, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, int64_t groups, bool learned) {
  Forward f = forward("qat_conv_int8", input, weight, bias, input_scale, input_zero_point, weight_scale, input_quant_min,
                      input_quant_max, weight_quant_min, weight_quant_max, stride, padding, dilation, groups, learned, /*keep=*/true);
  return {f.output, f.codes, f.mask, f.weight.codes, f.weight.mask};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("qat_conv_int8", &qat_conv_int8_cpu);
  m.impl("_qat_conv_int8_forward", &qat_conv_forward_cpu);
}

}  // namespace torchqat
