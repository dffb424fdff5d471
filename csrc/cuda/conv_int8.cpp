// Deployed integer convolution on CUDA. A packed weight is the CPU's, moved.
#include "ops/torch_headers.h"

#include <cstring>

#include "cpu/conv_int8.h"
#include "cuda/device.h"
#include "cuda/kernels/conv_int8.h"
#include "cuda/through_cpu.h"
#include "ops/conv_int8.h"
#include "ops/packed_header.h"

namespace torchqat::cuda {
namespace {

using cpu::conv::Dims;
using cpu::conv::dims_of;
using cpu::conv::WeightLayout;

constexpr uint32_t format_version = 1;

// Neither is part of a step: packing is done once, and the sizes of what is unpacked are in the data.
at::Tensor conv_int8_pack(const at::Tensor& codes, int64_t groups) {
  return through_cpu<int64_t>("torchqat::conv_int8_pack", codes, groups);
}
at::Tensor conv_int8_unpack(const at::Tensor& packed) { return through_cpu("torchqat::conv_int8_unpack", packed); }

HeaderWords conv_header(const WeightLayout& w) {
  PackedSizes sizes{w.groups, w.group_in, w.group_out, 0, 0, 0};
  for (int d = 3 - w.spatial_dims; d < 3; ++d) sizes[static_cast<size_t>(3 + d)] = w.kernel[static_cast<size_t>(d)];
  const auto words = packed_header_words(PackedFormat::conv_int8, format_version, sizes);
  HeaderWords header;
  std::memcpy(header.words, words.data(), sizeof(header.words));
  return header;
}

void set_geometry(Conv& c, const WeightLayout& w, const Dims& in, const Dims& stride, const Dims& padding, const Dims& dilation) {
  const Dims out = cpu::conv::output_size(in, w.kernel, stride, padding, dilation);
  for (size_t d = 0; d < 3; ++d) {
    c.in[d] = in[d];
    c.padded[d] = in[d] + 2 * padding[d];
    c.padding[d] = padding[d];
    c.stride[d] = stride[d];
    c.dilation[d] = dilation[d];
    c.kernel[d] = w.kernel[d];
    c.out[d] = out[d];
  }
  c.channels = w.in_channels();
  c.out_channels = w.out_channels();
  c.planes = w.planes;
  c.plane_in = w.plane_in;
  c.plane_out = w.plane_out;
  c.panels = w.panels;
  c.chunks = w.chunks;
  c.k_pad = w.k_pad();
  c.run_pad = w.run_pad;
  c.run_len = w.run_len;
  c.patch = w.patch;
  c.depthwise = w.depthwise();
  c.plane_bytes = c.padded[0] * c.padded[1] * c.padded[2] * w.plane_in;
  c.sample_bytes = w.planes * c.plane_bytes;
}

at::Tensor conv_int8_op(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                        const std::optional<at::Tensor>& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                        int64_t quant_min, int64_t quant_max, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                        at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  const ConvArgs args{"conv_int8", quant_min, quant_max, kernel_size, stride, padding, dilation, groups};
  check_conv_input_dtype(args.op, input);
  check_conv_int8(args, input, weight_scale, bias, input_scale, input_zero_point);
  check_packed_tensor(args.op, "packed_weight", packed_weight);
  const OnDevice device(input);
  const WeightLayout layout = cpu::conv::weight_layout(groups, input.size(1) / groups, weight_scale.size(0) / groups,
                                                       static_cast<int>(kernel_size.size()), dims_of(kernel_size, 1));
  TORCH_CHECK_VALUE(packed_weight.numel() == layout.packed_bytes() && packed_weight.device() == input.device(), args.op,
                    ": packed_weight must fit the other arguments (", layout.packed_bytes(), " bytes on ", input.device(),
                    "), got ", packed_weight.numel(), " bytes on ", packed_weight.device());
  const auto sizes = conv_output_sizes(args, input, weight_scale.size(0));
  const auto format = input.suggest_memory_format();
  const at::Tensor x = input.contiguous(format);
  at::Tensor y = at::empty_symint(sizes, x.options(), format);
  if (y.numel() == 0) return y;

  at::Tensor packed = packed_weight.contiguous();
  if (reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 16 != 0) packed = packed.clone();
  const at::Tensor scale = in_type(input_scale, at::kFloat), zero_point = in_type(input_zero_point, at::kFloat);
  const at::Tensor column_scale = in_type(weight_scale, at::kFloat);
  const at::Tensor b = bias.has_value() && bias->defined() ? in_type(*bias, at::kFloat) : at::Tensor();
  Conv c;
  set_geometry(c, layout, dims_of(x.sizes().slice(2), 1), dims_of(stride, 1), dims_of(padding, 0), dims_of(dilation, 1));
  c.samples = x.size(0);
  c.channels_last = format != at::MemoryFormat::Contiguous;
  c.input = x.const_data_ptr();
  c.type = float_type(x.scalar_type());
  c.input_scale = scale.const_data_ptr<float>();
  c.input_zero_point = zero_point.const_data_ptr<float>();
  c.scale_stride = scale.numel() == 1 ? 0 : 1;
  c.zero_point_stride = zero_point.numel() == 1 ? 0 : 1;
  c.quant_min = static_cast<int32_t>(quant_min);
  c.quant_max = static_cast<int32_t>(quant_max);
  c.shift = quant_min < 0 ? 128 : 0;
  c.packed = packed.const_data_ptr<uint8_t>();
  c.header = conv_header(layout);
  c.panel_codes = cpu::conv::packed_codes(c.packed);
  c.sums = cpu::conv::packed_sums(layout, c.packed);
  c.depthwise_codes = cpu::conv::packed_depthwise(layout, c.packed);
  c.weight_scale = column_scale.const_data_ptr<float>();
  c.weight_stride = column_scale.numel() == 1 ? 0 : 1;
  c.bias = b.defined() ? b.const_data_ptr<float>() : nullptr;
  c.output = y.mutable_data_ptr();
  const at::Tensor codes = at::empty({c.samples * c.sample_bytes}, x.options().dtype(at::kByte));
  const at::Tensor sample_scale = at::empty({c.samples}, x.options().dtype(at::kFloat));
  const at::Tensor sample_zero_point = at::empty({c.samples}, x.options().dtype(at::kInt));
  const at::Tensor tap_offset = at::empty({c.k_pad}, x.options().dtype(at::kLong));
  c.codes = codes.mutable_data_ptr<uint8_t>();
  c.sample_scale = sample_scale.mutable_data_ptr<float>();
  c.sample_zero_point = sample_zero_point.mutable_data_ptr<int32_t>();
  c.tap_offset = tap_offset.mutable_data_ptr<int64_t>();
  conv_int8(c, device.stream());
  return y;
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("conv_int8_pack", &conv_int8_pack);
  m.impl("conv_int8_unpack", &conv_int8_unpack);
  m.impl("conv_int8", &conv_int8_op);
}

}  // namespace
}  // namespace torchqat::cuda
