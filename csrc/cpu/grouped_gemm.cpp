// Tensors to grouped linear kernels.
#include "cpu/grouped_gemm.h"

#include <cstring>

#include "cpu/isa.h"
#include "cpu/kernels/pack_s8.h"
#include "cpu/kernels/panels.h"
#include "cpu/thread_memory.h"
#include "ops/linear_grouped.h"
#include "ops/packed_header.h"

namespace torchqat {
namespace {

// Positive and finite, on raw bits: one unsigned comparison each. `infinity` is the bits of +inf.
template <typename Bits>
bool all_positive(const void* data, int64_t count, Bits infinity) {
  const Bits* bits = static_cast<const Bits*>(data);
  Bits bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= static_cast<Bits>(bits[i] - 1) >= static_cast<Bits>(infinity - 1);
  return bad == 0;
}

bool all_positive(const at::Tensor& dense) {
  switch (dense.scalar_type()) {
    case at::kFloat: return all_positive<uint32_t>(dense.const_data_ptr(), dense.numel(), 0x7f800000u);
    case at::kBFloat16: return all_positive<uint16_t>(dense.const_data_ptr(), dense.numel(), 0x7f80u);
    case at::kHalf: return all_positive<uint16_t>(dense.const_data_ptr(), dense.numel(), 0x7c00u);
    default: return all_positive<uint64_t>(dense.const_data_ptr(), dense.numel(), 0x7ff0000000000000u);
  }
}

}  // namespace

void check_scale_values(const char* op, const char* name, const at::Tensor& scale) {
  const at::Tensor dense = scale.is_non_overlapping_and_dense() ? scale : scale.contiguous();
  if (all_positive(dense)) return;
  const at::Tensor values = scale.detach().to(at::kDouble).reshape(-1);
  const at::Tensor bad = at::logical_not(at::isfinite(values) & (values > 0)).nonzero();
  const int64_t first = bad.select(0, 0).item<int64_t>();
  TORCH_CHECK_VALUE(false, op, ": ", name, " must be finite and > 0, got ", values[first].item<double>(), " at ", first);
}

at::Tensor pack_grouped(const at::Tensor& bytes, int64_t bits, int64_t group_size, bool lasting) {
  const bool is_signed = bytes.scalar_type() == at::kChar;
  const int64_t n = bytes.size(0), k = bytes.size(1);
  const cpu::GroupedLayout w = cpu::grouped_layout(n, k, group_size, static_cast<int>(bits), is_signed);
  at::Tensor packed = make_packed(PackedFormat::linear_grouped, kLinearGroupedVersion,
                                  {n, k, group_size, bits, is_signed, 0}, w.bytes(), lasting);
  const auto* codes = static_cast<const uint8_t*>(bytes.const_data_ptr());
  uint8_t* out = packed.mutable_data_ptr<uint8_t>() + kPackedHeaderBytes;
  if (bits == 8 && is_signed && w.group_padded == w.group && k % 64 == 0 && k % w.group == 0) {
    // Whole groups of whole bytes lie as in the panels of one scale per row, but for the offset.
    const at::Tensor sums = at::empty({cpu::segment_count(k) * cpu::padded64(n)}, at::kInt);
    const cpu::PackedS8 target{n, k, reinterpret_cast<int8_t*>(out), sums.mutable_data_ptr<int32_t>()};
    const auto kernel = cpu::select<cpu::PackS8Fn>(cpu::pack_s8_scalar, cpu::pack_s8_avx2, cpu::pack_s8_avx512);
    at::parallel_for(0, w.panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        kernel(reinterpret_cast<const int8_t*>(codes), target, p, p + 1);
        // While the panel is in the cache. Bounds of its own: bytes may alias anything, the layout's numbers too, and would
        // be read anew for each.
        uint8_t* bytes = out + p * w.panel_bytes;
        const int64_t count = w.panel_bytes;
        for (int64_t i = 0; i < count; ++i) bytes[i] ^= 0x80;
      }
    });
    return packed;
  }
  at::parallel_for(0, w.panels, 1, [&](int64_t begin, int64_t end) { cpu::grouped_pack(w, codes, out, begin, end); });
  return packed;
}

GroupedWeight read_grouped_weight(const char* op, const at::Tensor& packed_weight) {
  const auto [n, k, group, bits, is_signed, unused] =
      read_packed(op, "packed_weight", packed_weight, PackedFormat::linear_grouped, kLinearGroupedVersion);
  const bool known = n >= 0 && k >= 0 && group >= 1 && (bits == 2 || bits == 3 || bits == 4 || bits == 8);
  GroupedWeight weight;
  if (known) weight.layout = cpu::grouped_layout(n, k, group, static_cast<int>(bits), is_signed != 0);
  TORCH_CHECK_VALUE(known && packed_weight.numel() == kPackedHeaderBytes + weight.layout.bytes(), op,
                    ": packed_weight must hold ", n, " x ", k, " codes of ", bits, " bits in groups of ", group, ", got ",
                    packed_weight.numel(), " bytes");
  weight.data = packed_weight.const_data_ptr<uint8_t>() + kPackedHeaderBytes;
  weight.is_signed = is_signed != 0;
  weight.most = weight.layout.offset;
  return weight;
}

GroupedScaleView view_weight_scale(const char* op, const at::Tensor& weight_scale, const cpu::GroupedLayout& w) {
  TORCH_CHECK_VALUE(grouped_out_features(weight_scale) == w.n && weight_scale.size(1) == w.groups, op,
                    ": weight_scale must have shape [", w.n, ", ", w.groups, "] for this packed_weight, got ",
                    weight_scale.sizes());
  TORCH_CHECK_VALUE(weight_scale.device().is_cpu(), op, ": weight_scale must be on the CPU, got ", weight_scale.device());
  GroupedScaleView view;
  const at::ScalarType dtype = weight_scale.scalar_type();
  view.owner = dtype == at::kDouble ? weight_scale.detach().to(at::kFloat) : weight_scale;
  if (weight_scale.dim() == 2) check_scale_values(op, "weight_scale", view.owner);
  cpu::GroupedScale& s = view.scale;
  s.data = view.owner.const_data_ptr();
  s.type = dtype == at::kBFloat16 ? cpu::ScaleType::bfloat16
           : dtype == at::kHalf   ? cpu::ScaleType::float16
                                  : cpu::ScaleType::float32;
  const bool packed = weight_scale.dim() == 3;
  s.column_stride = view.owner.stride(packed ? 2 : 0);
  s.group_stride = view.owner.stride(1);
  s.panel_stride = packed ? view.owner.stride(0) : cpu::kGroupedColumns * s.column_stride;
  return view;
}

uint8_t* grouped_scratch(int64_t bytes) {
  static thread_local cpu::ThreadMemory memory;
  return memory.at_least(bytes, "grouped linear layer");
}

namespace {

bool groups_lie_apart(const cpu::GroupedLayout& w, int64_t ld_codes) {
  return w.k_padded() > ld_codes || (w.group_padded != w.group && w.groups != 1);
}

// Rows of codes, ld_codes apart, with every group at a multiple of group_padded and zeros between.
void spread_groups(const uint8_t* source, int64_t ld_codes, int64_t rows, const cpu::GroupedLayout& w, uint8_t* target) {
  const int64_t padded = w.k_padded();
  at::parallel_for(0, rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(padded, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memset(target + i * padded, 0, static_cast<size_t>(padded));
      for (int64_t g = 0; g < w.groups; ++g) {
        std::memcpy(target + i * padded + g * w.group_padded, source + i * ld_codes + g * w.group,
                    static_cast<size_t>(std::min(w.group, w.k - g * w.group)));
      }
    }
  });
}

// y of dtype, from codes that `g` already knows.
at::Tensor multiply(cpu::GroupedInt8 g, at::IntArrayRef sizes, const std::optional<at::Tensor>& bias, at::ScalarType dtype) {
  at::Tensor y = at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
  const FloatView float_bias = view_floats(bias);
  g.bias = float_bias.data;
  g.out = y.mutable_data_ptr<float>();
  g.ldo = g.w.n;
  const auto kernel = cpu::select<cpu::GroupedInt8Fn>(cpu::grouped_int8_scalar, cpu::grouped_int8_avx2, cpu::grouped_int8_avxvnni,
                                                      cpu::grouped_int8_avx512, cpu::grouped_int8_amx);
  for_each_grouped_block(g.m, g.w, cpu::grouped_int8_scratch(g.w, g.m), [&](const cpu::GroupedRange& range) { kernel(g, range); });
  return dtype == at::kFloat ? y : y.to(dtype);
}

}  // namespace

at::Tensor group_codes(const at::Tensor& codes, int64_t rows, const cpu::GroupedLayout& w) {
  if (!groups_lie_apart(w, codes.size(1))) return codes;
  at::Tensor out = at::empty({rows, w.k_padded()}, codes.options());
  spread_groups(codes.const_data_ptr<uint8_t>(), codes.size(1), rows, w, out.mutable_data_ptr<uint8_t>());
  return out;
}

// A product with the weight, its codes still to be given.
cpu::GroupedInt8 product_of(int64_t rows, const GroupedWeight& weight, const cpu::GroupedScale& scale) {
  cpu::GroupedInt8 g;
  g.w = weight.layout;
  g.weight = weight.data;
  g.weight_most = weight.most;
  g.scale = scale;
  g.m = rows;
  return g;
}

at::Tensor run_linear_grouped(const LayerInput& input, at::IntArrayRef sizes, const GroupedWeight& weight,
                              const cpu::GroupedScale& scale, const std::optional<at::Tensor>& bias, at::ScalarType dtype) {
  const cpu::GroupedLayout& w = weight.layout;
  cpu::GroupedInt8 g = product_of(input.rows(), weight, scale);
  const RowMemory memory(input.bytes(g.m));
  const LayerInput::Rows rows = input.code(0, g.m, memory.data(), true);
  g.codes = rows.codes;
  g.lda = cpu::padded64(w.k);
  at::Tensor spread;
  if (groups_lie_apart(w, g.lda)) {
    spread = at::empty({g.m, w.k_padded()}, at::TensorOptions().dtype(at::kByte));
    spread_groups(g.codes, g.lda, g.m, w, spread.mutable_data_ptr<uint8_t>());
    g.codes = spread.const_data_ptr<uint8_t>();
    g.lda = w.k_padded();
  }
  g.input_scale = rows.scale;
  g.zero_point = rows.zero_point;
  g.input_stride = input.stride();
  g.nan_rows = rows.nan;
  return multiply(g, sizes, bias, dtype);
}

at::Tensor grouped_gemm(const QuantizedRows& x, int64_t rows, const InputQParams& qparams, const GroupedWeight& weight,
                        const cpu::GroupedScale& scale, const std::optional<at::Tensor>& bias, at::ScalarType dtype) {
  const cpu::GroupedLayout& w = weight.layout;
  cpu::GroupedInt8 g = product_of(rows, weight, scale);
  const at::Tensor codes = group_codes(x.codes, rows, w);
  g.codes = codes.const_data_ptr<uint8_t>();
  g.lda = codes.size(1);
  g.input_scale = qparams.scale.const_data_ptr<float>();
  g.zero_point = qparams.zero_point.const_data_ptr<int32_t>();
  g.input_stride = qparams.stride;
  g.nan_rows = x.nan_rows.const_data_ptr<uint8_t>();
  return multiply(g, {rows, w.n}, bias, dtype);
}

}  // namespace torchqat
