// Backward products by limbs and by bfloat16.
#include "cpu/grad_gemm.h"

#include "cpu/grad_panel_source.h"
#include "cpu/isa.h"
#include "cpu/kernels/gemm_grad.h"
#include "cpu/kernels/grad_bf16.h"
#include "cpu/kernels/grad_few_rows.h"
#include "cpu/kernels/grad_limbs.h"
#include "cpu/kernels/panels.h"
#include "numerics/limbs.h"

namespace torchqat {
namespace {

// Below these a second thread costs more than it brings: bytes read or written, and multiplications.
constexpr int64_t kSerialBytes = 1 << 18, kSerialWork = 1 << 22;
// To make a panel costs as much as so many rows that are multiplied by it.
constexpr int64_t kPanelRows = 32;

cpu::GradSource source_of(const GradProblem& p) {
  cpu::GradSource s;
  s.grad = p.grad.const_data_ptr();
  s.type = float_type(p.grad.scalar_type());
  s.m = p.m;
  s.n = p.n;
  s.column_factor = p.weight_scale.const_data_ptr<float>();
  s.column_stride = p.weight_scale.numel() == 1 ? 0 : 1;
  if (p.qparams->stride == 1) s.row_factor = p.qparams->scale.const_data_ptr<float>();
  return s;
}

// Rows of the gradient that a thread takes at least.
int64_t row_grain(const GradProblem& p) { return std::max<int64_t>(1, kSerialBytes / 8 / std::max<int64_t>(p.n, 1)); }

// Largest values and the bias gradient.
struct Statistics {
  float *row_max, *column_max;
  int64_t chunks;

  static int64_t chunks_of(const GradProblem& p) { return (p.n + cpu::kGradChunk - 1) / cpu::kGradChunk; }
  static int64_t bytes(const GradProblem& p) { return Scratch::padded(4 * chunks_of(p) * p.m) + Scratch::padded(4 * p.n); }

  Statistics(const GradProblem& p, const cpu::GradSource& source, const at::Tensor& bias, Scratch& scratch)
      : row_max(scratch.take<float>(chunks_of(p) * p.m)), column_max(scratch.take<float>(p.n)), chunks(chunks_of(p)) {
    cpu::GradStats stats;
    stats.row_max = row_max;
    stats.column_max = column_max;
    if (bias.defined()) stats.column_sum = data<float>(bias);
    const auto kernel =
        cpu::select<cpu::GradStatsFn>(cpu::grad_stats_scalar, cpu::grad_stats_avx2, cpu::grad_stats_avx512);
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) { kernel(source, stats, begin, end); });
  }
};

// Of each row or column as 16-bit integers.
struct LineScales {
  float *scale, *inverse;

  LineScales(int64_t count, const float* largest, int64_t chunks, Scratch& scratch)
      : scale(scratch.take<float>(count)), inverse(scratch.take<float>(count)) {
    for (int64_t i = 0; i < count; ++i) {
      float most = 0.0f;
      for (int64_t c = 0; c < chunks; ++c) most = numerics::larger_or_nan(largest[c * count + i], most);
      scale[i] = numerics::limb_scale(most);
      inverse[i] = numerics::limb_inverse(most);
    }
  }
};

// One form's limbs with their scales.
struct Limbs {
  LineScales of_lines;
  cpu::LimbLines lines;

  // Lines a power of two apart would fall on the same places of the cache.
  static int64_t line_bytes(int64_t reduction) {
    const int64_t padded = cpu::padded64(reduction);
    return padded % 1024 == 0 ? padded + 64 : padded;
  }
  static int64_t bytes(int64_t count, int64_t reduction) {
    return Scratch::padded(2 * count * line_bytes(reduction)) + 2 * Scratch::padded(4 * count) +
           Scratch::padded(8 * cpu::segment_count(reduction) * count);
  }

  Limbs(int64_t count, int64_t reduction, const float* largest, int64_t chunks, Scratch& scratch)
      : of_lines(count, largest, chunks, scratch) {
    const int64_t ld = line_bytes(reduction);
    lines.high = scratch.take<uint8_t>(2 * count * ld);
    lines.low = lines.high + count * ld;
    lines.ld = ld;
    lines.sums = scratch.take<int32_t>(2 * cpu::segment_count(reduction) * count);
    lines.inverse = of_lines.inverse;
  }
};

// The part of a product that limbs and bfloat16 share: where it goes and what is masked.
cpu::GemmGrad product(int64_t m, int64_t n, const at::Tensor& mask, const at::Tensor& out) {
  cpu::GemmGrad g;
  g.m = m;
  g.n = n;
  if (mask.defined()) {
    g.mask = mask.const_data_ptr<uint8_t>();
    g.ld_mask = (n + 7) / 8;
  }
  g.type = float_type(out.scalar_type());
  g.out = out.mutable_data_ptr();
  g.ldo = n;
  return g;
}

// The input's scale, where it is the same for all rows and so multiplies the finished sums.
float common_factor(const GradProblem& p) {
  return p.qparams->stride == 1 ? 1.0f : *p.qparams->scale.const_data_ptr<float>();
}

// With few panels all are made before their rows are shared out.
bool few_panels(const PanelSource& source) { return source.count < 2 * at::get_num_threads() && at::get_num_threads() > 1; }

int64_t panel_scratch(const PanelSource& source) {
  return few_panels(source) ? source.part_bytes(source.count) : source.scratch_bytes(at::get_num_threads());
}

void run(cpu::GemmGrad g, cpu::GemmGradFn kernel, int64_t row_bytes, const PanelSource& source, Scratch& scratch) {
  if (few_panels(source)) {
    g.panels = source.make(scratch.take<uint8_t>(source.part_bytes(source.count)), 0, source.count);
    for_each_block(g.m, source.count, row_bytes,
                   [&](int64_t r0, int64_t r1, int64_t p0, int64_t p1) { kernel(g, r0, r1, p0, p1); });
    return;
  }
  const bool serial = (g.m + kPanelRows) * source.count * source.panel_bytes() <= kSerialWork;
  const int64_t step = source.at_a_time(), part = source.part_bytes(step);
  auto* parts = scratch.take<uint8_t>(at::get_num_threads() * part);
  at::parallel_for(0, source.count, serial ? source.count : 1, [&](int64_t begin, int64_t end) {
    cpu::GemmGrad own = g;
    for (int64_t p = begin; p < end; p += step) {
      const int64_t to = std::min(end, p + step);
      own.first_panel = p;
      own.panels = source.make(parts + at::get_thread_num() * part, p, to);
      for_each_block(g.m, to - p, row_bytes,
                     [&](int64_t r0, int64_t r1, int64_t p0, int64_t p1) { kernel(own, r0, r1, p + p0, p + p1); });
    }
  });
}

void multiply_limbs(cpu::GemmGrad g, const Limbs& a, int64_t reduction, const PanelSource& source, Scratch& scratch) {
  g.reduction_bytes = cpu::padded64(reduction);
  g.lda = a.lines.ld;
  g.used_bytes = reduction;
  g.a_high = a.lines.high;
  g.a_low = a.lines.low;
  g.corrections = a.lines.sums;
  g.row_scale = a.of_lines.scale;
  run(g, cpu::select<cpu::GemmGradFn>(cpu::gemm_limbs_scalar, cpu::gemm_limbs_avx2, cpu::gemm_limbs_avxvnni, cpu::gemm_limbs_avx512,
                                      cpu::gemm_limbs_amx), 2 * g.lda, source, scratch);
}

void multiply_bf16(cpu::GemmGrad g, const uint16_t* a, const PanelSource& source, Scratch& scratch) {
  g.reduction_bytes = g.lda = 2 * source.lines;
  g.a_high = reinterpret_cast<const uint8_t*>(a);
  run(g, cpu::current_isa() == cpu::Isa::amx ? cpu::gemm_bf16_amx : cpu::gemm_bf16_avx512bf16, g.lda, source, scratch);
}

// dx with the weight in groups.
struct GroupsProduct {
  static int64_t ld(const GradProblem& p) { return Limbs::line_bytes(2 * cpu::padded64(p.n)) / 2; }
  static int64_t bytes(const GradProblem& p, const PanelSource& source) {
    const int64_t groups = p.groups->groups();
    return Scratch::padded(2 * p.m * ld(p)) + Scratch::padded(2 * groups * cpu::padded64(p.n)) + Scratch::padded(4 * groups) +
           2 * Scratch::padded(4 * p.m) + panel_scratch(source);
  }

  static void run(const GradProblem& p, const cpu::GradSource& rows, const Statistics& stats, const PanelSource& source,
                  const at::Tensor& out, Scratch& scratch) {
    auto* values = scratch.take<int16_t>(p.m * ld(p));
    auto* scales = scratch.take<int16_t>(p.groups->groups() * cpu::padded64(p.n));
    auto* units = scratch.take<float>(p.groups->groups());
    const LineScales of_rows(p.m, stats.row_max, stats.chunks, scratch);
    const auto to_s16 = cpu::select<cpu::RowsToS16Fn>(cpu::rows_to_s16_scalar, cpu::rows_to_s16_avx2, cpu::rows_to_s16_avx512);
    at::parallel_for(0, p.m, row_grain(p),
                     [&](int64_t begin, int64_t end) { to_s16(rows, of_rows.inverse, values, ld(p), begin, end); });
    const auto of_groups =
        cpu::select<cpu::ScalesToS16Fn>(cpu::scales_to_s16_scalar, cpu::scales_to_s16_avx2, cpu::scales_to_s16_avx512);
    at::parallel_for(0, p.groups->groups(), std::max<int64_t>(16, kSerialBytes / 8 / p.n),
                     [&](int64_t begin, int64_t end) { of_groups(*p.groups, scales, units, begin, end); });
    cpu::GemmGrad g = product(p.m, p.k, p.mask, out);
    g.reduction_bytes = 2 * source.lines;
    g.lda = 2 * ld(p);
    g.a_high = reinterpret_cast<const uint8_t*>(values);
    g.row_scale = of_rows.scale;
    g.group = p.groups->group;
    g.group_scales = scales;
    g.group_units = units;
    torchqat::run(g, cpu::select<cpu::GemmGradFn>(cpu::gemm_groups_scalar, cpu::gemm_groups_avx2, cpu::gemm_groups_avxvnni,
                                                  cpu::gemm_groups_avx512, cpu::gemm_groups_avx512), g.lda, source, scratch);
  }
};

void weight_gradient_of_few_rows(const GradProblem& p, const cpu::GradSource& source, const at::Tensor& out) {
  cpu::FewRowsGrad g;
  g.source = source;
  g.codes = p.codes.const_data_ptr<uint8_t>();
  g.ld_codes = cpu::padded64(p.k);
  g.zero_point = p.qparams->zero_point.const_data_ptr<int32_t>();
  g.zero_stride = p.qparams->stride;
  g.k = p.k;
  g.factor = common_factor(p);
  if (p.weight_mask.defined()) {
    g.mask = p.weight_mask.const_data_ptr<uint8_t>();
    g.ld_mask = (p.k + 7) / 8;
  }
  g.type = float_type(out.scalar_type());
  g.out = out.mutable_data_ptr();
  const auto kernel =
      cpu::select<cpu::FewRowsGradFn>(cpu::grad_few_rows_scalar, cpu::grad_few_rows_avx2, cpu::grad_few_rows_avx512);
  at::parallel_for(0, p.n, std::max<int64_t>(2, kSerialBytes / (4 * p.k)), [&](int64_t begin, int64_t end) { kernel(g, begin, end); });
}

}  // namespace

Backward resolve_backward(Backward wanted) {
  if (wanted == Backward::automatic) {
    return cpu::current_isa() >= cpu::Isa::avxvnni ? Backward::int16 : Backward::float32;
  }
  return wanted == Backward::bfloat16 && !cpu::use_avx512_bf16() ? Backward::float32 : wanted;
}

void bias_gradient(const GradProblem& p, const at::Tensor& out) {
  Scratch scratch(Statistics::bytes(p));
  Statistics(p, source_of(p), out, scratch);
}

void apply_bit_mask(const at::Tensor& values, const at::Tensor& mask) {
  const int64_t k = values.size(1);
  auto* rows = data<float>(values);
  const auto* bits = mask.const_data_ptr<uint8_t>();
  at::parallel_for(0, values.size(0), std::max<int64_t>(1, 32768 / k), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* row_bits = bits + i * mask.size(1);
      for (int64_t j = 0; j < k; j += 8) {
        if (row_bits[j / 8] == 0xff) continue;
        for (int64_t t = j; t < std::min(k, j + 8); ++t) {
          if ((row_bits[j / 8] >> (t - j) & 1) == 0) rows[i * k + t] = 0.0f;
        }
      }
    }
  });
}

void grad_by_limbs(const GradProblem& p, const GradResults& out) {
  const cpu::GradSource source = source_of(p);
  const bool in_groups = p.groups != nullptr;
  const PanelSource weights = (in_groups ? PanelSource::groups(*p.groups) : PanelSource::weights(p)).for_rows(p.m);
  const PanelSource codes = PanelSource::codes(p);
  const int64_t for_input = !out.input.defined() ? 0
                            : in_groups          ? GroupsProduct::bytes(p, weights)
                                                 : Limbs::bytes(p.m, p.n) + panel_scratch(weights);
  const bool few_rows = p.m <= cpu::kFewRows;
  const int64_t for_weight = out.weight.defined() && !few_rows ? Limbs::bytes(p.n, p.m) + panel_scratch(codes) : 0;
  Scratch scratch(Statistics::bytes(p) + std::max(for_input, for_weight));
  const Statistics stats(p, source, out.bias, scratch);
  auto* const mark = scratch.mark();
  if (out.input.defined() && in_groups) {
    GroupsProduct::run(p, source, stats, weights, out.input, scratch);
    scratch.rewind(mark);
  } else if (out.input.defined()) {
    Limbs rows(p.m, p.n, stats.row_max, stats.chunks, scratch);
    rows.lines.weight = 128;  // the panels hold q + 128
    const auto split = cpu::select<cpu::SplitRowsFn>(cpu::split_rows_scalar, cpu::split_rows_avx2, cpu::split_rows_avx512);
    at::parallel_for(0, p.m, row_grain(p), [&](int64_t begin, int64_t end) { split(source, rows.lines, begin, end); });
    multiply_limbs(product(p.m, p.k, p.mask, out.input), rows, p.n, weights, scratch);
    scratch.rewind(mark);
  }
  if (out.weight.defined() && few_rows) {
    weight_gradient_of_few_rows(p, source, out.weight);
  } else if (out.weight.defined()) {
    Limbs columns(p.n, p.m, stats.column_max, 1, scratch);
    const int32_t* zero_point = p.qparams->zero_point.const_data_ptr<int32_t>();
    if (p.qparams->stride == 1) {
      columns.lines.weights = zero_point;
    } else {
      columns.lines.weight = zero_point[0];
    }
    const auto split =
        cpu::select<cpu::SplitColumnsFn>(cpu::split_columns_scalar, cpu::split_columns_avx2, cpu::split_columns_avx512);
    at::parallel_for(0, cpu::padded64(p.n) / 64, 1,
                     [&](int64_t begin, int64_t end) { split(source, columns.lines, begin, end); });
    cpu::GemmGrad g = product(p.n, p.k, p.weight_mask, out.weight);
    g.factor = common_factor(p);
    multiply_limbs(g, columns, p.m, codes, scratch);
  }
}

void grad_by_bf16(const GradProblem& p, const GradResults& out) {
  const cpu::GradSource source = source_of(p);
  const PanelSource codes = PanelSource::codes(p).as_bf16();
  const int64_t n_lines = cpu::padded64(p.n), m_lines = cpu::padded64(p.m);
  // The panels and the gradient's rows or columns.
  int64_t for_input = 0;
  if (out.input.defined()) {
    for_input = panel_scratch(PanelSource::weights(p).as_bf16()) + Scratch::padded(2 * p.m * n_lines);
  }
  const int64_t for_weight = out.weight.defined() ? panel_scratch(codes) + Scratch::padded(2 * p.n * m_lines) : 0;
  Scratch scratch(Statistics::bytes(p) + std::max(for_input, for_weight));
  if (out.bias.defined()) Statistics(p, source, out.bias, scratch);
  auto* const mark = scratch.mark();
  if (out.input.defined()) {
    auto* rows = scratch.take<uint16_t>(p.m * n_lines);
    at::parallel_for(0, p.m, row_grain(p), [&](int64_t begin, int64_t end) { cpu::grad_rows_to_bf16(source, rows, begin, end); });
    multiply_bf16(product(p.m, p.k, p.mask, out.input), rows, PanelSource::weights(p).as_bf16(), scratch);
    scratch.rewind(mark);
  }
  if (out.weight.defined()) {
    auto* columns = scratch.take<uint16_t>(p.n * m_lines);
    at::parallel_for(0, cpu::padded64(p.n) / 64, 1,
                     [&](int64_t begin, int64_t end) { cpu::grad_columns_to_bf16(source, columns, begin, end); });
    cpu::GemmGrad g = product(p.n, p.k, p.weight_mask, out.weight);
    g.factor = common_factor(p);
    multiply_bf16(g, columns, codes, scratch);
  }
}

}  // namespace torchqat
