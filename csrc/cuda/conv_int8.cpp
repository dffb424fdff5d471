// Deployed integer convolution on CUDA. A packed weight is the CPU's, moved.
#include "ops/torch_headers.h"

#include "cuda/conv_int8.h"

#include <cstring>

#include "cuda/through_cpu.h"
#include "ops/packed_header.h"

namespace torchqat::cuda {
namespace {

using cpu::conv::Dims;
using cpu::conv::dims_of;

constexpr uint32_t format_version = 1;

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

}  // namespace

PackedConv view_packed_conv(const WeightLayout& layout, const at::Tensor& packed, bool has_header) {
  const uint8_t* data = packed.const_data_ptr<uint8_t>();
  return {has_header ? data : nullptr, cpu::conv::packed_codes(data), cpu::conv::packed_sums(layout, data),
          cpu::conv::packed_depthwise(layout, data)};
}

at::Tensor pack_conv_weight(const WeightLayout& w, const at::Tensor& codes, Stream stream) {
  at::Tensor packed = at::empty({w.packed_bytes()}, codes.options().dtype(at::kByte));
  uint8_t* data = packed.mutable_data_ptr<uint8_t>();
  ConvPack p;
  p.codes = codes.const_data_ptr<int8_t>();
  p.groups = w.groups;
  p.group_in = w.group_in;
  p.group_out = w.group_out;
  p.merge = w.merge;
  for (size_t d = 0; d < 3; ++d) p.kernel[d] = w.kernel[d];
  p.planes = w.planes;
  p.plane_in = w.plane_in;
  p.plane_out = w.plane_out;
  p.panels = w.panels;
  p.chunks = w.chunks;
  p.k_pad = w.k_pad();
  p.run_pad = w.run_pad;
  p.run_len = w.run_len;
  p.patch = w.patch;
  p.depthwise = w.depthwise();
  p.panel_codes = reinterpret_cast<int8_t*>(data + cpu::conv::kHeaderBytes);
  p.sums = reinterpret_cast<int32_t*>(data + cpu::conv::kHeaderBytes + w.weight_bytes());
  p.depthwise_codes = reinterpret_cast<int8_t*>(p.sums + w.sum_count());
  conv_pack(p, stream);
  return packed;
}

ConvCall::ConvCall(const ConvArgs& a, const WeightLayout& layout, const PackedConv& packed, ConvTensors t) : tensors(std::move(t)) {
  const at::Tensor& x = tensors.x;
  Conv& c = args;
  set_geometry(c, layout, dims_of(x.sizes().slice(2), 1), dims_of(a.stride, 1), dims_of(a.padding, 0), dims_of(a.dilation, 1));
  c.samples = x.size(0);
  c.channels_last = x.suggest_memory_format() != at::MemoryFormat::Contiguous;
  if (x.is_floating_point()) {
    c.input = x.const_data_ptr();
    c.type = float_type(x.scalar_type());
  } else {
    c.input_codes = static_cast<const uint8_t*>(x.const_data_ptr());
    c.flip = x.scalar_type() == at::kChar;
  }
  c.input_scale = tensors.input_scale.const_data_ptr<float>();
  c.input_zero_point = tensors.zero_point.const_data_ptr<float>();
  c.scale_stride = tensors.input_scale.numel() == 1 ? 0 : 1;
  c.zero_point_stride = tensors.zero_point.numel() == 1 ? 0 : 1;
  c.quant_min = static_cast<int32_t>(a.quant_min);
  c.quant_max = static_cast<int32_t>(a.quant_max);
  c.shift = a.quant_min < 0 ? 128 : 0;
  c.packed = packed.header;
  c.header = conv_header(layout);
  c.panel_codes = packed.panels;
  c.sums = packed.sums;
  c.depthwise_codes = packed.depthwise;
  c.weight_scale = tensors.weight_scale.const_data_ptr<float>();
  c.weight_stride = tensors.weight_scale.numel() == 1 ? 0 : 1;
  c.bias = tensors.bias.defined() ? tensors.bias.const_data_ptr<float>() : nullptr;
  c.output = tensors.y.mutable_data_ptr();
  if (tensors.y.is_floating_point()) c.out_type = float_type(tensors.y.scalar_type());
  const auto options = x.options().memory_format(std::nullopt);
  codes = at::empty({c.samples * c.sample_bytes}, options.dtype(at::kByte));
  sample_scale = at::empty({c.samples}, options.dtype(at::kFloat));
  sample_zero_point = at::empty({c.samples}, options.dtype(at::kInt));
  tap_offset = at::empty({c.k_pad}, options.dtype(at::kLong));
  c.codes = codes.mutable_data_ptr<uint8_t>();
  c.sample_scale = sample_scale.mutable_data_ptr<float>();
  c.sample_zero_point = sample_zero_point.mutable_data_ptr<int32_t>();
  c.tap_offset = tap_offset.mutable_data_ptr<int64_t>();
}

namespace {

// Neither is part of a step: packing is done once, and the sizes of what is unpacked are in the data.
at::Tensor conv_int8_pack(const at::Tensor& codes, int64_t groups) {
  return through_cpu<int64_t>("torchqat::conv_int8_pack", codes, groups);
}
at::Tensor conv_int8_unpack(const at::Tensor& packed) { return through_cpu("torchqat::conv_int8_unpack", packed); }

// The grid of the codes that are wanted; absent for float results.
struct OutputGrid {
  bool relu;
  at::Tensor scale, zero_point;  // float32, one element
  int64_t quant_min, quant_max;
};

at::Tensor convolve(const ConvArgs& args, const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                    const std::optional<at::Tensor>& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                    const OutputGrid* grid) {
  check_conv_input(args, input);
  check_conv_int8(args, input, weight_scale, bias, input_scale, input_zero_point);
  check_packed_tensor(args.op, "packed_weight", packed_weight);
  const OnDevice device(input);
  const WeightLayout layout = cpu::conv::weight_layout(args.groups, input.size(1) / args.groups, weight_scale.size(0) / args.groups,
                                                       static_cast<int>(args.kernel_size.size()), dims_of(args.kernel_size, 1));
  TORCH_CHECK_VALUE(packed_weight.numel() == layout.packed_bytes() && packed_weight.device() == input.device(), args.op,
                    ": packed_weight must fit the other arguments (", layout.packed_bytes(), " bytes on ", input.device(),
                    "), got ", packed_weight.numel(), " bytes on ", packed_weight.device());
  const auto sizes = conv_output_sizes(args, input, weight_scale.size(0));
  const auto format = input.suggest_memory_format();
  const at::Tensor x = input.contiguous(format);
  const auto type = grid != nullptr ? (grid->quant_min < 0 ? at::kChar : at::kByte)
                    : x.is_floating_point() ? x.scalar_type() : at::kFloat;
  at::Tensor y = at::empty_symint(sizes, x.options().dtype(type), format);
  if (y.numel() == 0) return y;
  at::Tensor packed = packed_weight.contiguous();
  if (reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 16 != 0) packed = packed.clone();
  ConvCall call(args, layout, view_packed_conv(layout, packed, /*has_header=*/true),
                {x, in_type(weight_scale, at::kFloat),
                 bias.has_value() && bias->defined() ? in_type(*bias, at::kFloat) : at::Tensor(),
                 in_type(input_scale, at::kFloat), in_type(input_zero_point, at::kFloat), y});
  if (grid != nullptr) {
    call.args.to_codes = true;
    call.args.relu = grid->relu;
    call.args.output_scale = grid->scale.const_data_ptr<float>();
    call.args.output_zero_point = grid->zero_point.const_data_ptr<float>();
    call.args.output_min = static_cast<int32_t>(grid->quant_min);
    call.args.output_max = static_cast<int32_t>(grid->quant_max);
  }
  conv_int8(call.args, device.stream());
  return y;
}

at::Tensor conv_int8_op(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                        const std::optional<at::Tensor>& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                        int64_t quant_min, int64_t quant_max, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                        at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  const ConvArgs args{"conv_int8", quant_min, quant_max, kernel_size, stride, padding, dilation, groups};
  return convolve(args, input, packed_weight, weight_scale, bias, input_scale, input_zero_point, nullptr);
}

at::Tensor conv_int8_codes_op(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                              const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                              const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                              at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                              at::IntArrayRef dilation, int64_t groups, bool relu, const at::Tensor& output_scale,
                              const at::Tensor& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  const ConvArgs args{"conv_int8_codes", quant_min, quant_max, kernel_size, stride, padding, dilation, groups};
  check_conv_output_grid(args.op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  for (const at::Tensor& t : {output_scale, output_zero_point}) {
    TORCH_CHECK_VALUE(t.device() == input.device(), args.op, ": all tensors must be on the device of input, ", input.device(),
                      ", got ", t.device());
  }
  const OutputGrid grid{relu, in_type(output_scale, at::kFloat), in_type(output_zero_point, at::kFloat), output_quant_min,
                        output_quant_max};
  return convolve(args, input, packed_weight, weight_scale, bias, input_scale, input_zero_point, &grid);
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("conv_int8_pack", &conv_int8_pack);
  m.impl("conv_int8_unpack", &conv_int8_unpack);
  m.impl("conv_int8", &conv_int8_op);
  m.impl("conv_int8_codes", &conv_int8_codes_op);
}

}  // namespace
}  // namespace torchqat::cuda
