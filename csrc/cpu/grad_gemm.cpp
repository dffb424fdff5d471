// Backward products by limbs and by bfloat16.
#include "cpu/grad_gemm.h"

#include "cpu/isa.h"
#include "cpu/kernels/gemm_grad.h"
#include "cpu/kernels/grad_bf16.h"
#include "cpu/kernels/grad_limbs.h"
#include "cpu/kernels/grad_panels.h"
#include "cpu/kernels/panels.h"
#include "numerics/limbs.h"

namespace torchqat {
namespace {

template <typename T>
T* data(const at::Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

at::Tensor buffer(int64_t size, at::ScalarType dtype) { return at::empty({size}, dtype); }

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

// Largest values and the bias gradient.
struct Statistics {
  at::Tensor row_max, column_max;
  int64_t chunks = 0;
};

Statistics statistics(const GradProblem& p, const cpu::GradSource& source, const at::Tensor& bias) {
  Statistics out;
  out.chunks = (p.n + cpu::kGradChunk - 1) / cpu::kGradChunk;
  out.row_max = buffer(out.chunks * p.m, at::kFloat);
  out.column_max = buffer(p.n, at::kFloat);
  cpu::GradStats stats;
  stats.row_max = data<float>(out.row_max);
  stats.column_max = data<float>(out.column_max);
  if (bias.defined()) stats.column_sum = data<float>(bias);
  const auto kernel = cpu::select<cpu::GradStatsFn>(cpu::grad_stats_scalar, cpu::grad_stats_avx2, cpu::grad_stats_avx512);
  at::parallel_for(0, out.chunks, 1, [&](int64_t begin, int64_t end) { kernel(source, stats, begin, end); });
  return out;
}

// One form's limbs with their scales.
struct Limbs {
  at::Tensor bytes, scale, inverse, sums;
  cpu::LimbLines lines;

  Limbs(int64_t count, int64_t reduction, const float* largest, int64_t chunks) {
    const int64_t ld = cpu::padded64(reduction);
    bytes = buffer(2 * count * ld, at::kByte);
    scale = buffer(count, at::kFloat);
    inverse = buffer(count, at::kFloat);
    sums = buffer(2 * cpu::segment_count(reduction) * count, at::kInt);
    for (int64_t i = 0; i < count; ++i) {
      float most = 0.0f;
      for (int64_t c = 0; c < chunks; ++c) most = numerics::larger_or_nan(largest[c * count + i], most);
      data<float>(scale)[i] = numerics::limb_scale(most);
      data<float>(inverse)[i] = numerics::limb_inverse(most);
    }
    lines.high = data<uint8_t>(bytes);
    lines.low = lines.high + count * ld;
    lines.ld = ld;
    lines.inverse = data<float>(inverse);
    lines.sums = data<int32_t>(sums);
  }
};

// Panels over the reduction: the weight's q + 128 by lines of n, the input's codes by lines of m.
at::Tensor weight_panels(const GradProblem& p) {
  at::Tensor panels = buffer(cpu::padded64(p.k) * cpu::padded64(p.n), at::kByte);
  const auto kernel = cpu::select<cpu::WeightToPanelsFn>(cpu::weight_to_panels_scalar, cpu::weight_to_panels_avx2,
                                                         cpu::weight_to_panels_avx512);
  at::parallel_for(0, cpu::padded64(p.k) / 64, 1, [&](int64_t begin, int64_t end) {
    kernel(p.weight.panels, p.n, p.k, data<uint8_t>(panels), begin, end);
  });
  return panels;
}

at::Tensor code_panels(const GradProblem& p) {
  at::Tensor panels = buffer(cpu::padded64(p.k) * cpu::padded64(p.m), at::kByte);
  const auto kernel = cpu::select<cpu::CodesToPanelsFn>(cpu::codes_to_panels_scalar, cpu::codes_to_panels_avx2,
                                                        cpu::codes_to_panels_avx512);
  at::parallel_for(0, cpu::padded64(p.k) / 64, 1, [&](int64_t begin, int64_t end) {
    kernel(p.codes.const_data_ptr<uint8_t>(), p.m, cpu::padded64(p.k), p.k, data<uint8_t>(panels), begin, end);
  });
  return panels;
}

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

void run(const cpu::GemmGrad& g, cpu::GemmGradFn kernel, int64_t row_bytes) {
  for_each_block(g.m, cpu::padded64(g.n) / cpu::kPanelColumns, row_bytes,
                 [&](int64_t r0, int64_t r1, int64_t p0, int64_t p1) { kernel(g, r0, r1, p0, p1); });
}

void multiply_limbs(cpu::GemmGrad g, const Limbs& a, const at::Tensor& panels) {
  g.reduction_bytes = g.lda = a.lines.ld;
  g.a_high = a.lines.high;
  g.a_low = a.lines.low;
  g.panels = panels.const_data_ptr<uint8_t>();
  g.corrections = a.lines.sums;
  g.row_scale = a.scale.const_data_ptr<float>();
  run(g, cpu::select<cpu::GemmGradFn>(cpu::gemm_limbs_scalar, cpu::gemm_limbs_avx2, cpu::gemm_limbs_avx512,
                                      cpu::gemm_limbs_amx), 2 * g.lda);
}

void multiply_bf16(cpu::GemmGrad g, const at::Tensor& a, const at::Tensor& panels, int64_t lines) {
  g.reduction_bytes = g.lda = 2 * lines;
  g.a_high = data<uint8_t>(a);
  g.panels = data<uint8_t>(panels);
  run(g, cpu::current_isa() == cpu::Isa::amx ? cpu::gemm_bf16_amx : cpu::gemm_bf16_avx512bf16, g.lda);
}

// `zero_points` of the first `count` lines, or one for all.
at::Tensor bf16_panels(const at::Tensor& panels, int64_t columns, int64_t lines, int64_t count,
                       const int32_t* zero_points, int32_t zero_point) {
  at::Tensor out = buffer(cpu::padded64(columns) * lines, at::kBFloat16);
  at::parallel_for(0, cpu::padded64(columns) / 64, 1, [&](int64_t begin, int64_t end) {
    cpu::panels_to_bf16(panels.const_data_ptr<uint8_t>(), lines, count, zero_points, zero_point, data<uint16_t>(out),
                        begin, end);
  });
  return out;
}

}  // namespace

Backward resolve_backward(Backward wanted) {
  if (wanted == Backward::automatic) {
    return cpu::current_isa() >= cpu::Isa::avx512 ? Backward::int16 : Backward::float32;
  }
  return wanted == Backward::bfloat16 && !cpu::use_avx512_bf16() ? Backward::float32 : wanted;
}

void bias_gradient(const GradProblem& p, const at::Tensor& out) { statistics(p, source_of(p), out); }

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
  const Statistics stats = statistics(p, source, out.bias);
  if (out.input.defined()) {
    Limbs rows(p.m, p.n, stats.row_max.const_data_ptr<float>(), stats.chunks);
    rows.lines.weight = 128;  // the panels hold q + 128
    const auto split = cpu::select<cpu::SplitRowsFn>(cpu::split_rows_scalar, cpu::split_rows_avx2, cpu::split_rows_avx512);
    at::parallel_for(0, p.m, 8, [&](int64_t begin, int64_t end) { split(source, rows.lines, begin, end); });
    multiply_limbs(product(p.m, p.k, p.mask, out.input), rows, weight_panels(p));
  }
  if (out.weight.defined()) {
    Limbs columns(p.n, p.m, stats.column_max.const_data_ptr<float>(), 1);
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
    multiply_limbs(g, columns, code_panels(p));
  }
}

void grad_by_bf16(const GradProblem& p, const GradResults& out) {
  const cpu::GradSource source = source_of(p);
  if (out.bias.defined()) statistics(p, source, out.bias);
  if (out.input.defined()) {
    const int64_t lines = cpu::padded64(p.n);
    const at::Tensor rows = buffer(p.m * lines, at::kBFloat16);
    at::parallel_for(0, p.m, 8, [&](int64_t begin, int64_t end) {
      cpu::grad_rows_to_bf16(source, data<uint16_t>(rows), begin, end);
    });
    multiply_bf16(product(p.m, p.k, p.mask, out.input), rows,
                  bf16_panels(weight_panels(p), p.k, lines, lines, nullptr, 128), lines);
  }
  if (out.weight.defined()) {
    const int64_t lines = cpu::padded64(p.m);
    const at::Tensor columns = buffer(p.n * lines, at::kBFloat16);
    at::parallel_for(0, cpu::padded64(p.n) / 64, 1, [&](int64_t begin, int64_t end) {
      cpu::grad_columns_to_bf16(source, data<uint16_t>(columns), begin, end);
    });
    const int32_t* zero_point = p.qparams->zero_point.const_data_ptr<int32_t>();
    cpu::GemmGrad g = product(p.n, p.k, p.weight_mask, out.weight);
    g.factor = common_factor(p);
    multiply_bf16(g, columns,
                  bf16_panels(code_panels(p), p.k, lines, p.m, p.qparams->stride == 1 ? zero_point : nullptr,
                              zero_point[0]), lines);
  }
}

}  // namespace torchqat
