// The training layer with weights in groups on the CPU: the deployed layer's kernels forward, products on the dequantised
// codes backward.
#include "ops/qat_linear_grouped.h"

#include <cstring>

#include "cpu/grad_gemm.h"
#include "cpu/grouped_gemm.h"
#include "cpu/isa.h"
#include "cpu/kernels/gemm_grad.h"
#include "cpu/kernels/grad_bf16.h"
#include "cpu/kernels/panels.h"
#include "cpu/kernels/quantize_groups.h"
#include "ops/linear_grouped.h"
#include "ops/linear_int8.h"

namespace torchqat {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// Blocks of 32 columns that lie in shorter groups hold little else than padding.
constexpr int64_t kShortestInt16Group = 16;

struct QuantizedWeight {
  at::Tensor codes, mask;  // int8 [n, k], uint8 [n, ceil(k / 8)]
};

// Whole groups of eight: every group is a row to the kernel that quantises rows.
void quantize_whole_groups(const at::Tensor& weight, const at::Tensor& scale, int64_t group, const CodeRanges& ranges,
                           const QuantizedWeight& out) {
  const int64_t lines = weight.numel() / group;
  cpu::QuantizeRows q;
  q.input = weight.const_data_ptr();
  q.type = float_type(weight.scalar_type());
  q.columns = q.ld_input = q.ld_codes = group;
  q.scale = scale.const_data_ptr<float>();
  q.stride = 1;
  q.quant_min = static_cast<float>(ranges.weight_min);
  q.quant_max = static_cast<float>(ranges.weight_max);
  q.codes = static_cast<uint8_t*>(out.codes.mutable_data_ptr());
  q.signed_codes = true;
  q.mask = out.mask.mutable_data_ptr<uint8_t>();
  q.ld_mask = group / 8;
  const auto kernel = group % 16 == 0 ? cpu::select<cpu::QuantizeGroupsFn>(cpu::quantize_groups_scalar, cpu::quantize_groups_avx2,
                                                                           cpu::quantize_groups_avx512)
                                      : cpu::select<cpu::QuantizeRowsFn>(cpu::quantize_rows_scalar, cpu::quantize_rows_avx2,
                                                                         cpu::quantize_rows_avx512);
  at::parallel_for(0, lines, std::max<int64_t>(1, 32768 / group), [&](int64_t begin, int64_t end) { kernel(q, begin, end); });
}

// Any group size, row by row of a padded copy.
void quantize_any_groups(const at::Tensor& weight, const at::Tensor& scale, int64_t group, const CodeRanges& ranges,
                         const QuantizedWeight& out) {
  const int64_t n = weight.size(0), k = weight.size(1), groups = scale.size(1), padded = (group + 7) / 8 * 8;
  at::Tensor lines = at::zeros({n * groups, padded}, weight.options());
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t count = std::min(group, k - g * group);
    lines.view({n, groups, padded}).select(1, g).narrow(1, 0, count).copy_(weight.narrow(1, g * group, count));
  }
  const QuantizedWeight whole{at::empty({n * groups, padded}, out.codes.options()),
                              at::empty({n * groups, padded / 8}, out.mask.options())};
  quantize_whole_groups(lines, scale, padded, ranges, whole);
  const auto* codes = whole.codes.const_data_ptr<int8_t>();
  const auto* bits = whole.mask.const_data_ptr<uint8_t>();
  auto* to = out.codes.mutable_data_ptr<int8_t>();
  auto* mask = out.mask.mutable_data_ptr<uint8_t>();
  const int64_t mask_bytes = out.mask.size(1);
  at::parallel_for(0, n, 8, [&](int64_t begin, int64_t end) {
    std::memset(mask + begin * mask_bytes, 0, static_cast<size_t>((end - begin) * mask_bytes));
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const int64_t line = i * groups + j / group, at = j % group;
        to[i * k + j] = codes[line * padded + at];
        const int bit = bits[line * (padded / 8) + at / 8] >> (at % 8) & 1;
        mask[i * mask_bytes + j / 8] |= static_cast<uint8_t>(bit << (j % 8));
      }
    }
  });
}

QuantizedWeight quantize_weight(const at::Tensor& weight, const at::Tensor& scale, int64_t group_size,
                                const CodeRanges& ranges) {
  const at::Tensor source = weight.contiguous();
  const int64_t n = weight.size(0), k = weight.size(1), group = std::min(group_size, std::max<int64_t>(k, 1));
  const QuantizedWeight out{at::empty({n, k}, weight.options().dtype(at::kChar)),
                            at::empty({n, (k + 7) / 8}, weight.options().dtype(at::kByte))};
  if (source.numel() == 0) return out;
  const auto quantize = group % 8 == 0 && k % group == 0 ? &quantize_whole_groups : &quantize_any_groups;
  quantize(source, scale, group, ranges, out);
  return out;
}

// The scale as float32 [n, groups], contiguous, checked (or clamped where it is learned).
at::Tensor float_scale(const char* op, const at::Tensor& weight_scale, bool learned) {
  return read_scale(op, "weight_scale", weight_scale, learned).view(weight_scale.sizes());
}

QatForward forward(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                   const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                   int64_t group_size, const CodeRanges& ranges, bool input_learned, bool weight_learned,
                   bool with_mask) {
  constexpr auto op = "qat_linear_grouped";
  const auto sizes = check_qat_linear_grouped(op, input, weight, bias, input_scale, input_zero_point, weight_scale,
                                              group_size, ranges);
  const InputQParams qparams =
      read_input_qparams(op, input_scale, input_zero_point, ranges.input_min, ranges.input_max, input_learned);
  const at::Tensor scale = float_scale(op, weight_scale, weight_learned);
  const QuantizedWeight w = quantize_weight(weight, scale, group_size, ranges);
  const at::Tensor packed = pack_grouped(w.codes, 8, group_size);
  GroupedWeight opened = read_grouped_weight(op, packed);
  // Bytes that hold fewer bits.
  opened.most = std::min(opened.most, std::max(std::abs(ranges.weight_min), std::abs(ranges.weight_max)));
  TORCH_CHECK_VALUE(opened.layout.group_padded <= kLongestIntegerGroup, op, ": groups must be at most ",
                    kLongestIntegerGroup, " long, got ", opened.layout.group);
  const GroupedScaleView view = view_weight_scale(op, scale, opened.layout);
  const int64_t rows = row_count(input).expect_int();
  const QuantizedRows x = quantize_rows(input.contiguous(), rows, weight.size(1), qparams, with_mask);
  const at::Tensor y = grouped_gemm(x, rows, qparams, opened, view.scale, bias, input.scalar_type()).view_symint(sizes);
  return {y, x.codes, x.mask, w.codes, w.mask};
}

at::Tensor qat_linear_grouped_cpu(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                  const at::Tensor& input_scale, const at::Tensor& input_zero_point,
                                  const at::Tensor& weight_scale, int64_t group_size, int64_t input_quant_min,
                                  int64_t input_quant_max, int64_t weight_quant_min, int64_t weight_quant_max,
                                  bool input_learned, bool weight_learned, double, double, c10::string_view backward) {
  parse_backward("qat_linear_grouped", backward);
  return std::get<0>(forward(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size,
                             {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, input_learned,
                             weight_learned, /*with_mask=*/false));
}

QatForward forward_cpu(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                       const at::Tensor& input_scale, const at::Tensor& input_zero_point, const at::Tensor& weight_scale,
                       int64_t group_size, int64_t input_quant_min, int64_t input_quant_max, int64_t weight_quant_min,
                       int64_t weight_quant_max, bool input_learned, bool weight_learned) {
  return forward(input, weight, bias, input_scale, input_zero_point, weight_scale, group_size,
                 {input_quant_min, input_quant_max, weight_quant_min, weight_quant_max}, input_learned, weight_learned,
                 /*with_mask=*/true);
}

// q * s of a range of rows.
void dequantize_rows(const at::Tensor& codes, const at::Tensor& scale, int64_t group, int64_t row, float* out) {
  const int64_t k = codes.size(1);
  const int8_t* q = codes.const_data_ptr<int8_t>() + row * k;
  const float* s = scale.const_data_ptr<float>() + row * scale.size(1);
  for (int64_t begin = 0; begin < k; begin += group, ++s) {
    const int64_t end = std::min(k, begin + group);
    const float by = *s;  // out may alias it
    for (int64_t j = begin; j < end; ++j) out[j] = static_cast<float>(q[j]) * by;
  }
}

// The dequantised weight rounded to bfloat16, in the panels of gemm_grad.h with n as the reduction:
// [k_padded / 64][n_padded / 2][64][2].
at::Tensor bf16_weight_panels(const at::Tensor& codes, const at::Tensor& scale, int64_t group) {
  const int64_t n = codes.size(0), k = codes.size(1), n_padded = cpu::padded64(n), k_padded = cpu::padded64(k);
  at::Tensor panels = at::empty({k_padded * n_padded}, codes.options().dtype(at::kBFloat16));
  auto* out = static_cast<c10::BFloat16*>(panels.mutable_data_ptr());
  if (group % 16 == 0 && k % 64 == 0) {
    at::parallel_for(0, n_padded / 2, 8, [&](int64_t begin, int64_t end) {
      cpu::groups_to_bf16_panels(codes.const_data_ptr<int8_t>(), scale.const_data_ptr<float>(), n, k, group,
                                 reinterpret_cast<uint16_t*>(out), begin, end);
    });
    return panels;
  }
  at::parallel_for(0, n_padded / 2, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> pair(static_cast<size_t>(2 * k_padded));
    for (int64_t i = begin; i < end; ++i) {
      std::fill(pair.begin(), pair.end(), 0.0f);
      for (int64_t r = 0; r < 2 && 2 * i + r < n; ++r) dequantize_rows(codes, scale, group, 2 * i + r, pair.data() + r * k_padded);
      for (int64_t p = 0; p < k_padded / 64; ++p) {
        c10::BFloat16* line = out + (p * (n_padded / 2) + i) * 128;
        const float *first = pair.data() + p * 64, *second = first + k_padded;
        for (int64_t j = 0; j < 64; ++j) {
          line[2 * j] = c10::BFloat16(first[j]);
          line[2 * j + 1] = c10::BFloat16(second[j]);
        }
      }
    }
  });
  return panels;
}

// dx = dy W with both rounded to bfloat16 and float32 sums.
void grad_input_by_bf16(const GradProblem& p, const at::Tensor& weight_panels, const at::Tensor& out) {
  const int64_t lines = cpu::padded64(p.n);
  const at::Tensor rows = at::empty({p.m * lines}, at::kBFloat16), one = at::ones({1}, at::kFloat);
  cpu::GradSource source;
  source.grad = p.grad.const_data_ptr();
  source.type = float_type(p.grad.scalar_type());
  source.m = p.m;
  source.n = p.n;
  source.column_factor = one.const_data_ptr<float>();
  source.column_stride = 0;
  auto* values = static_cast<uint16_t*>(rows.mutable_data_ptr());
  at::parallel_for(0, p.m, 8, [&](int64_t begin, int64_t end) { cpu::grad_rows_to_bf16(source, values, begin, end); });
  cpu::GemmGrad g;
  g.m = p.m;
  g.n = p.k;
  g.reduction_bytes = g.lda = 2 * lines;
  g.a_high = reinterpret_cast<const uint8_t*>(values);
  g.panels = static_cast<const uint8_t*>(weight_panels.const_data_ptr());
  if (p.mask.defined()) {
    g.mask = p.mask.const_data_ptr<uint8_t>();
    g.ld_mask = p.mask.size(1);
  }
  g.type = float_type(out.scalar_type());
  g.out = out.mutable_data_ptr();
  g.ldo = p.k;
  const auto kernel = cpu::current_isa() == cpu::Isa::amx ? cpu::gemm_bf16_amx : cpu::gemm_bf16_avx512bf16;
  for_each_block(p.m, cpu::padded64(p.k) / cpu::kPanelColumns, g.lda,
                 [&](int64_t r0, int64_t r1, int64_t p0, int64_t p1) { kernel(g, r0, r1, p0, p1); });
}

// dx = dy W, taking so many rows of W at a time that they stay in the cache: all of them at once would be fresh memory.
void grad_input_by_float(const at::Tensor& grad, const at::Tensor& codes, const at::Tensor& scale, int64_t group,
                         const at::Tensor& product) {
  const int64_t n = codes.size(0), k = codes.size(1);
  const int64_t at_once = std::min(n, std::max<int64_t>(256, (int64_t{2} << 20) / (4 * k)));
  const at::Tensor weight = at::empty({at_once, k}, product.options());
  auto* values = weight.mutable_data_ptr<float>();
  for (int64_t first = 0; first < n; first += at_once) {
    const int64_t rows = std::min(at_once, n - first);
    at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) dequantize_rows(codes, scale, group, first + i, values + i * k);
    });
    at::Tensor out = product;
    const at::Tensor part = grad.narrow(1, first, rows), some = weight.narrow(0, 0, rows);
    first == 0 ? at::mm_out(out, part, some) : at::addmm_out(out, out, part, some);
  }
}

void grad_by_float(const GradProblem& p, const at::Tensor& weight_codes, const at::Tensor& scale, int64_t group,
                   const GradResults& out) {
  const at::Tensor grad = p.grad.to(at::kFloat);
  // Into the result itself where it is of this type.
  const auto product_for = [](const at::Tensor& target) {
    return target.scalar_type() == at::kFloat ? target : at::empty(target.sizes(), target.options().dtype(at::kFloat));
  };
  const auto finish = [](const at::Tensor& product, const at::Tensor& mask, const at::Tensor& target) {
    if (mask.defined()) apply_bit_mask(product, mask);
    if (!product.is_same(target)) target.copy_(product);
  };
  if (out.input.defined()) {
    const at::Tensor product = product_for(out.input);
    grad_input_by_float(grad, weight_codes, scale, group, product);
    finish(product, p.mask, out.input);
  }
  if (out.weight.defined()) {
    const at::Tensor x = p.codes.narrow(1, 0, p.k)
                             .to(at::kFloat)
                             .sub_(p.qparams->zero_point.view({-1, 1}))
                             .mul_(p.qparams->scale.view({-1, 1}));
    at::Tensor product = product_for(out.weight);
    at::mm_out(product, grad.t(), x);
    finish(product, p.weight_mask, out.weight);
  }
}

// AMX has bfloat16 products but none of 16-bit integers.
Backward resolve_grouped_backward(Backward wanted) {
  if (wanted == Backward::automatic && cpu::current_isa() == cpu::Isa::amx) return Backward::bfloat16;
  return resolve_backward(wanted);
}

at::Tensor checked_mask(const OptionalTensor& bits, const char* name, int64_t rows, int64_t k) {
  if (!bits.has_value()) return {};
  TORCH_CHECK_VALUE(bits->scalar_type() == at::kByte && bits->dim() == 2 && bits->size(0) == rows &&
                        bits->size(1) == (k + 7) / 8,
                    "_qat_linear_grouped_backward: ", name, " must be uint8 [", rows, ", ", (k + 7) / 8, "], got ",
                    bits->sizes());
  return bits->contiguous();
}

Gradients backward_cpu(const at::Tensor& grad_output, const at::Tensor& codes, const OptionalTensor& mask,
                       const at::Tensor& weight_codes, const OptionalTensor& weight_mask, const at::Tensor& input_scale,
                       const at::Tensor& input_zero_point, const at::Tensor& weight_scale, int64_t group_size,
                       int64_t input_quant_min, int64_t input_quant_max, at::ScalarType input_dtype,
                       at::ScalarType weight_dtype, c10::string_view backward, std::array<bool, 3> wanted) {
  constexpr auto op = "_qat_linear_grouped_backward";
  check_qat_linear_grouped_backward(grad_output, codes, weight_codes, weight_scale, group_size, backward);
  GradProblem p;
  p.n = weight_codes.size(0);
  p.k = weight_codes.size(1);
  p.m = codes.size(0);
  p.mask = checked_mask(mask, "mask", p.m, p.k);
  p.weight_mask = checked_mask(weight_mask, "weight_mask", p.n, p.k);
  p.grad = grad_output.contiguous().view({p.m, p.n});
  p.codes = codes.contiguous();
  p.weight_scale = at::ones({1}, at::kFloat);  // the groups' scales are in the dequantised weight
  const InputQParams qparams =
      read_input_qparams(op, input_scale, input_zero_point, input_quant_min, input_quant_max, /*learned=*/true);
  p.qparams = &qparams;
  const at::Tensor scale = float_scale(op, weight_scale, /*learned=*/true), w_codes = weight_codes.contiguous();

  auto sizes = grad_output.sizes().vec();
  sizes.back() = p.k;
  const auto options = grad_output.options();
  const at::Tensor grad_input = at::empty(wanted[0] ? sizes : std::vector<int64_t>{0}, options.dtype(input_dtype));
  const at::Tensor grad_weight =
      at::empty(wanted[1] ? std::vector<int64_t>{p.n, p.k} : std::vector<int64_t>{0}, options.dtype(weight_dtype));
  const at::Tensor grad_bias = at::empty({wanted[2] ? p.n : 0}, options.dtype(at::kFloat));
  if (p.m == 0 || p.n == 0 || p.k == 0) {
    grad_input.zero_();
    grad_weight.zero_();
    if (wanted[2] && p.n > 0) bias_gradient(p, grad_bias);
    return {grad_input, grad_weight, grad_bias};
  }
  GradResults out;
  if (wanted[0]) out.input = grad_input.view({p.m, p.k});
  if (wanted[1]) out.weight = grad_weight;
  if (wanted[2]) out.bias = grad_bias;
  switch (resolve_grouped_backward(parse_backward(op, backward))) {
    case Backward::int16: {
      const int64_t group = std::min(group_size, p.k);
      const cpu::GroupedCodes groups{w_codes.const_data_ptr<int8_t>(), scale.const_data_ptr<float>(), p.n, p.k, group};
      p.groups = &groups;
      if (group < kShortestInt16Group && wanted[0]) {
        grad_by_float(p, w_codes, scale, group_size, {out.input, {}, {}});
        out.input = at::Tensor();
      }
      grad_by_limbs(p, out);
      break;
    }
    case Backward::bfloat16:
      if (wanted[0]) grad_input_by_bf16(p, bf16_weight_panels(w_codes, scale, group_size), out.input);
      out.input = at::Tensor();  // done
      grad_by_bf16(p, out);
      break;
    default:
      grad_by_float(p, w_codes, scale, group_size, out);
      if (wanted[2]) bias_gradient(p, grad_bias);
      break;
  }
  return {grad_input, grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("qat_linear_grouped", &qat_linear_grouped_cpu);
  m.impl("_qat_linear_grouped_forward", &forward_cpu);
  m.impl("_qat_linear_grouped_backward", &backward_cpu);
}

}  // namespace
}  // namespace torchqat
