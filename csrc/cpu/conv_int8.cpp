// Integer convolution on the CPU: from tensors to the kernels of the instruction set in use.
#include "cpu/conv_int8.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "cpu/isa.h"
#include "cpu/scalar_value.h"
#include "ops/packed_header.h"

namespace torchqat {
namespace cpu::conv {

uint8_t* thread_scratch(int slot, int64_t bytes) {
  struct Buffer {
    std::unique_ptr<uint8_t, decltype(&std::free)> data{nullptr, &std::free};
    int64_t size = 0;
  };
  static thread_local Buffer buffers[2];
  Buffer& buffer = buffers[slot];
  if (buffer.size < bytes) {
    const int64_t size = (bytes + 4095) / 4096 * 4096;
    buffer.data.reset();
    buffer.size = 0;
    buffer.data.reset(static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(size))));
    TORCH_CHECK(buffer.data != nullptr, "conv_int8: out of memory for ", size, " bytes of scratch");
    buffer.size = size;
  }
  return buffer.data.get();
}

Kernels current_kernels() { return select(&kernels_scalar, &kernels_avx2, &kernels_avxvnni, &kernels_avx512, &kernels_amx)(); }

at::Tensor checked_scale(const char* op, const char* name, const at::Tensor& scale) {
  const at::Tensor values = float_values(scale);
  const float* p = values.const_data_ptr<float>();
  const int64_t count = values.numel();
  // Without branches, so that it is vectorised; the message is made afterwards.
  bool sound = true;
  for (int64_t i = 0; i < count; ++i) sound &= p[i] > 0 && p[i] <= std::numeric_limits<float>::max();
  for (int64_t i = 0; !sound && i < count; ++i) {
    TORCH_CHECK_VALUE(p[i] > 0 && std::isfinite(p[i]), op, ": ", name, " must be finite and > 0, got ", p[i]);
  }
  return values;
}

InputQparams input_qparams(const ConvArgs& args, const at::Tensor& scale, const at::Tensor& zero_point) {
  const at::Tensor s = checked_scale(args.op, "input_scale", scale);
  InputQparams q;
  q.scale.assign(s.const_data_ptr<float>(), s.const_data_ptr<float>() + s.numel());
  if (zero_point.scalar_type() == at::kInt && zero_point.is_contiguous()) {
    // The usual case, without the tensor that a conversion makes.
    const int* z = zero_point.const_data_ptr<int>();
    q.zero_point.assign(z, z + zero_point.numel());
  } else {
    const at::Tensor z = zero_point.to(at::kFloat).contiguous();
    q.zero_point.assign(z.const_data_ptr<float>(), z.const_data_ptr<float>() + z.numel());
  }
  for (float& value : q.zero_point) {
    TORCH_CHECK_VALUE(value >= static_cast<float>(args.quant_min) && value <= static_cast<float>(args.quant_max) && value == std::nearbyint(value),
                      args.op, ": input_zero_point must be an integer in [", args.quant_min, ", ", args.quant_max, "], got ", value);
  }
  return q;
}

at::Tensor rounded_zero_point(const at::Tensor& zero_point, int64_t low, int64_t high) {
  if (!zero_point.is_floating_point()) return zero_point;
  return zero_point.to(at::kFloat).round().clamp(static_cast<double>(low), static_cast<double>(high));
}

at::Tensor positive_scale(const at::Tensor& scale) {
  if (scale.is_cpu() && scale.scalar_type() == at::kFloat && scale.is_contiguous()) {
    // The usual case, without the tensor that clamping makes.
    const float* p = scale.const_data_ptr<float>();
    bool sound = true;
    for (int64_t i = 0, n = scale.numel(); i < n; ++i) sound &= p[i] >= std::numeric_limits<float>::min();
    if (sound) return scale;
  }
  return scale.to(at::kFloat).clamp_min(static_cast<double>(std::numeric_limits<float>::min()));
}

at::Tensor channel_scales(const at::Tensor& scale, int64_t n) {
  if (scale.numel() == n && scale.scalar_type() == at::kFloat && scale.is_contiguous()) return scale.dim() == 1 ? scale : scale.view({n});
  return scale.to(at::kFloat).reshape(-1).expand({n}).contiguous();
}

Dims dims_of(at::IntArrayRef list, int64_t fill) {
  Dims dims{fill, fill, fill};
  for (size_t d = 0; d < list.size(); ++d) dims[3 - list.size() + d] = list[d];
  return dims;
}

namespace {

constexpr uint32_t format_version = 1;

// groups, in and out channels of a group, kernel (0 for a missing leading dimension).
PackedSizes packed_sizes(const WeightLayout& w) {
  PackedSizes sizes{w.groups, w.group_in, w.group_out, 0, 0, 0};
  for (int d = 3 - w.spatial_dims; d < 3; ++d) sizes[static_cast<size_t>(3 + d)] = w.kernel[static_cast<size_t>(d)];
  return sizes;
}

}  // namespace

WeightLayout layout_of(const char* op, const at::Tensor& packed) {
  const PackedSizes s = read_packed(op, "packed_weight", packed, PackedFormat::conv_int8, format_version);
  int spatial_dims = 3;
  if (s[3] == 0) spatial_dims = s[4] == 0 ? 1 : 2;
  const Dims kernel{std::max<int64_t>(s[3], 1), std::max<int64_t>(s[4], 1), s[5]};
  // In doubles, so that damaged sizes cannot overflow.
  double codes = 1;
  bool sound = true;
  for (int64_t size : {s[0], s[1], s[2], kernel[0], kernel[1], kernel[2]}) {
    sound = sound && size >= 1;
    codes *= static_cast<double>(size);
  }
  sound = sound && codes < static_cast<double>(packed.numel());
  WeightLayout layout;
  if (sound) layout = weight_layout(s[0], s[1], s[2], spatial_dims, kernel);
  TORCH_CHECK_VALUE(sound && layout.packed_bytes() == packed.numel(), op,
                    ": packed_weight must have the size that its header says; it is truncated or damaged, got ",
                    packed.numel(), " bytes");
  return layout;
}

void run_batch(const Plan& plan, const ConvArgs& args, const BatchInput& input, const InputQparams& qparams,
               const uint8_t* packed, const at::Tensor& weight_scale, const at::Tensor& bias, const BatchOutput& out) {
  const Kernels kernels = current_kernels();
  const int64_t out_size = plan.weight.out_channels() * plan.out_pixels(), rows = plan.padded[0] * plan.padded[1];
  const int shift = args.quant_min < 0 ? 128 : 0;
  const auto source_of = [&](int64_t n) {
    Source s;
    s.values = input.values == nullptr ? nullptr : input.values + n * input.sample_size;
    s.codes = input.codes == nullptr ? nullptr : input.codes + n * input.sample_size;
    s.flip = input.flip;
    s.channels_last = input.channels_last;
    s.scale = qparams.scale_of(n);
    s.zero_point = qparams.zero_point_of(n);
    s.quant_min = static_cast<float>(args.quant_min);
    s.quant_max = static_cast<float>(args.quant_max);
    s.shift = shift;
    return s;
  };
  const auto poison = [&](int64_t n) {
    // As a code, a NaN is the zero point.
    if (out.values != nullptr) std::fill_n(out.values + n * out_size, out_size, std::numeric_limits<float>::quiet_NaN());
    if (out.codes != nullptr) {
      std::fill_n(out.codes + n * out_size, out_size, static_cast<uint8_t>(static_cast<int>(out.grid.zero_point)));
    }
  };
  const auto scratch = [&] {
    return thread_scratch(0, std::max(pad_scratch_bytes(plan), strip_scratch_bytes(plan)));
  };
  // Codes that are kept are quantised in memory order first, and then copied into the padded planes.
  const bool keep = input.kept_codes != nullptr;
  const int64_t mask_bytes = (input.sample_size + 7) / 8;
  const auto keep_codes = [&](int64_t n, int64_t begin, int64_t end) {
    Source s = source_of(n);
    s.values += begin;
    return kernels.quantize(s, end - begin, input.kept_codes + n * input.sample_size + begin,
                            input.kept_mask + n * mask_bytes + begin / 8);
  };
  const auto padding_source = [&](int64_t n) {
    Source s = source_of(n);
    if (keep) {
      s.values = nullptr;
      s.codes = input.kept_codes + n * input.sample_size;
    }
    return s;
  };
  // Codes in the kernels' own order need no padded copy.
  const bool plain = input.channels_last && (keep || (input.codes != nullptr && !input.flip)) && kernels.reads_plain_codes(plan);
  const auto task_of = [&](int64_t n, const uint8_t* codes) {
    Task t;
    t.codes = codes;
    if (plain) t.plain = padding_source(n).codes;
    t.packed = packed;
    t.input_scale = qparams.scale_of(n);
    t.zero_point = static_cast<int32_t>(qparams.zero_point_of(n)) + shift;
    t.weight_scale = weight_scale.const_data_ptr<float>();
    t.per_channel = weight_scale.numel() > 1;
    t.bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
    t.out = out.values == nullptr ? nullptr : out.values + n * out_size;
    t.out_codes = out.codes == nullptr ? nullptr : out.codes + n * out_size;
    t.grid = out.grid;
    t.channels_last = input.channels_last;
    return t;
  };
  // A batch that caches close to the core hold anyhow is not asked for.
  const int64_t value_bytes = input.values == nullptr ? 1 : 4, result_bytes = out.values == nullptr ? 1 : 4;
  const bool far = input.samples * (input.sample_size * value_bytes + out_size * result_bytes) > (1 << 20);
  const auto ask_ahead = [&](Task& task, int64_t n) {
    if (!far) return;
    task.ahead = input.values == nullptr ? static_cast<const void*>(input.codes + n * input.sample_size) : input.values + n * input.sample_size;
    task.ahead_bytes = input.sample_size * value_bytes;
  };
  if (input.samples >= at::get_num_threads() || at::in_parallel_region()) {
    at::parallel_for(0, input.samples, 1, [&](int64_t begin, int64_t end) {
      uint8_t* work = scratch();
      uint8_t* codes = plain ? nullptr : thread_scratch(1, plan.codes_bytes());
      // The last sample first: the pass that found the range has left that one in the cache.
      for (int64_t n = end - 1; n >= begin; --n) {
        const bool kept_nan = keep && keep_codes(n, 0, input.sample_size);
        const bool nan = (!plain && kernels.pad_rows(plan, padding_source(n), 0, rows, codes, work)) || kept_nan;
        Task task = task_of(n, codes);
        if (n > begin) ask_ahead(task, n - 1);
        kernels.strips(plan, task, 0, plan.strips, work);
        if (nan) poison(n);
      }
    });
    return;
  }
  // Fewer samples than threads: each step of a sample is shared.
  uint8_t* codes = plain ? nullptr : thread_scratch(1, plan.codes_bytes());
  for (int64_t n = 0; n < input.samples; ++n) {
    std::atomic<bool> nan{false};
    if (keep) {
      constexpr int64_t block = 4096;
      at::parallel_for(0, (input.sample_size + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
        if (keep_codes(n, begin * block, std::min(input.sample_size, end * block))) nan = true;
      });
    }
    if (!plain) {
      at::parallel_for(0, rows, std::max<int64_t>(1, rows / (2 * at::get_num_threads())), [&](int64_t begin, int64_t end) {
        if (kernels.pad_rows(plan, padding_source(n), begin, end, codes, scratch())) nan = true;
      });
    }
    at::parallel_for(0, plan.strips, 1, [&](int64_t begin, int64_t end) {
      kernels.strips(plan, task_of(n, codes), begin, end, scratch());
    });
    if (nan) poison(n);
  }
}

}  // namespace cpu::conv

namespace {

using namespace cpu::conv;

at::Tensor conv_int8_pack_cpu(const at::Tensor& codes, int64_t groups) {
  check_conv_codes(codes, groups);
  const at::Tensor plain = codes.contiguous();
  const WeightLayout layout = weight_layout(groups, plain.size(1), plain.size(0) / groups, static_cast<int>(plain.dim()) - 2,
                                            dims_of(plain.sizes().slice(2), 1));
  at::Tensor packed = make_packed(PackedFormat::conv_int8, format_version, packed_sizes(layout),
                                  layout.packed_bytes() - kHeaderBytes);
  pack_weight(layout, plain.const_data_ptr<int8_t>(), packed.mutable_data_ptr<uint8_t>());
  return packed;
}

at::Tensor conv_int8_unpack_cpu(const at::Tensor& packed_weight) {
  const WeightLayout layout = layout_of("conv_int8_unpack", packed_weight);
  std::vector<int64_t> sizes{layout.out_channels(), layout.group_in};
  sizes.insert(sizes.end(), layout.kernel.end() - layout.spatial_dims, layout.kernel.end());
  at::Tensor codes = at::empty(sizes, packed_weight.options().dtype(at::kChar));
  unpack_weight(layout, packed_weight.const_data_ptr<uint8_t>(), codes.mutable_data_ptr<int8_t>());
  return codes;
}

// The grid of the codes that are wanted, or none for float results.
at::Tensor convolve(const ConvArgs& args, const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                    const std::optional<at::Tensor>& bias, const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                    const std::optional<OutputGrid>& grid) {
  check_conv_input(args, input);
  check_conv_int8(args, input, weight_scale, bias, input_scale, input_zero_point);
  const WeightLayout layout = layout_of(args.op, packed_weight);
  TORCH_CHECK_VALUE(layout.groups == args.groups && layout.in_channels() == input.size(1) &&
                        layout.out_channels() == weight_scale.size(0) &&
                        layout.spatial_dims == static_cast<int>(args.kernel_size.size()) && layout.kernel == dims_of(args.kernel_size, 1),
                    args.op, ": packed_weight must fit the other arguments (", input.size(1), " input channels, ",
                    weight_scale.size(0), " output channels, kernel ", args.kernel_size, ", groups ", args.groups, "), got ",
                    layout.in_channels(), " input channels, ", layout.out_channels(), " output channels, kernel ",
                    at::IntArrayRef(layout.kernel).slice(static_cast<size_t>(3 - layout.spatial_dims)), ", groups ", layout.groups);
  const auto sizes = conv_output_sizes(args, input, weight_scale.size(0));
  const auto format = input.suggest_memory_format();
  const InputQparams qparams = input_qparams(args, input_scale, input_zero_point);
  const at::Tensor scale = checked_scale(args.op, "weight_scale", weight_scale);
  const at::Tensor b = bias.has_value() && bias->defined() ? cpu::float_values(*bias) : at::Tensor();
  const bool from_codes = !input.is_floating_point();
  const at::Tensor x = (from_codes ? input : input.to(at::kFloat)).contiguous(format);
  const auto type = !grid.has_value() ? at::kFloat : grid->quant_min < 0 ? at::kChar : at::kByte;
  at::Tensor y = at::empty_symint(sizes, x.options().dtype(type), format);
  if (y.numel() > 0) {
    const auto plan_of = [&](const Dims& in) {
      return make_plan(layout, in, dims_of(args.stride, 1), dims_of(args.padding, 0), dims_of(args.dilation, 1), current_kernels().tile_rows);
    };
    Plan plan = plan_of(dims_of(x.sizes().slice(2), 1));
    BatchInput batch;
    batch.values = from_codes ? nullptr : x.const_data_ptr<float>();
    batch.codes = from_codes ? static_cast<const uint8_t*>(x.const_data_ptr()) : nullptr;
    batch.flip = x.scalar_type() == at::kChar;
    batch.samples = x.size(0);
    batch.sample_size = x.numel() / x.size(0);
    batch.channels_last = format != at::MemoryFormat::Contiguous;
    BatchOutput out;
    if (grid.has_value()) {
      out.codes = static_cast<uint8_t*>(y.mutable_data_ptr());
      out.grid = *grid;
    } else {
      out.values = y.mutable_data_ptr<float>();
    }
    // Pixels that meet one tap alike are one long line, whatever sample they belong to, if no sample has to be padded.
    const bool alike = from_codes && !batch.flip && batch.channels_last && layout.taps() == 1 && plan.in == plan.out && qparams.scale.size() == 1 &&
                       qparams.zero_point.size() == 1 && !layout.depthwise();
    if (alike && current_kernels().reads_plain_codes(plan)) {
      plan = plan_of({1, 1, batch.samples * plan.in_pixels()});
      batch.sample_size *= batch.samples;
      batch.samples = 1;
      plan.share_among(at::get_num_threads());
    }
    run_batch(plan, args, batch, qparams, packed_weight.const_data_ptr<uint8_t>(), scale, b, out);
  }
  return grid.has_value() || from_codes ? y : y.to(input.scalar_type());
}

at::Tensor conv_int8_cpu(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                         const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                         const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                         at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                         at::IntArrayRef dilation, int64_t groups) {
  const ConvArgs args{"conv_int8", quant_min, quant_max, kernel_size, stride, padding, dilation, groups};
  return convolve(args, input, packed_weight, weight_scale, bias, input_scale, input_zero_point, std::nullopt);
}

at::Tensor conv_int8_codes_cpu(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                               const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                               const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max,
                               at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                               at::IntArrayRef dilation, int64_t groups, bool relu, const at::Tensor& output_scale,
                               const at::Tensor& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  const ConvArgs args{"conv_int8_codes", quant_min, quant_max, kernel_size, stride, padding, dilation, groups};
  check_conv_output_grid(args.op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  OutputGrid grid;
  grid.relu = relu;
  grid.scale = checked_scale(args.op, "output_scale", output_scale).const_data_ptr<float>()[0];
  grid.quant_min = static_cast<float>(output_quant_min);
  grid.quant_max = static_cast<float>(output_quant_max);
  grid.zero_point = static_cast<float>(cpu::number_value(output_zero_point));
  TORCH_CHECK_VALUE(grid.zero_point >= grid.quant_min && grid.zero_point <= grid.quant_max && grid.zero_point == std::nearbyint(grid.zero_point),
                    args.op, ": output_zero_point must be an integer in [", output_quant_min, ", ", output_quant_max, "], got ",
                    grid.zero_point);
  return convolve(args, input, packed_weight, weight_scale, bias, input_scale, input_zero_point, grid);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("conv_int8_pack", &conv_int8_pack_cpu);
  m.impl("conv_int8_unpack", &conv_int8_unpack_cpu);
  m.impl("conv_int8", &conv_int8_cpu);
  m.impl("conv_int8_codes", &conv_int8_codes_cpu);
}

}  // namespace torchqat
