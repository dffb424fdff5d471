// Integer forms of operations without weights on the CPU: tensors to kernels, the windows of pooling, the threads.
#include "ops/forms.h"

#include "cpu/form_grid.h"
#include "cpu/isa.h"
#include "numerics/average.h"

namespace torchqat {
namespace {

using namespace cpu::forms;
using cpu::form_grid;

constexpr int64_t kGrain = 1 << 15;

Kernels current() {
  return cpu::select(&kernels_scalar, &kernels_avx2, cpu::use_avx512_vbmi() ? &kernels_avx512vbmi : &kernels_avx512)();
}

Element element(const at::Tensor& t) {
  return t.scalar_type() == at::kFloat ? Element::float32 : t.scalar_type() == at::kByte ? Element::u8 : Element::s8;
}

at::Tensor add_int8_cpu(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_scale, const at::Tensor& a_zero_point,
                        int64_t a_quant_min, int64_t a_quant_max, const at::Tensor& b_scale, const at::Tensor& b_zero_point,
                        int64_t b_quant_min, int64_t b_quant_max, bool relu, const std::optional<at::Tensor>& output_scale,
                        const std::optional<at::Tensor>& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  constexpr auto op = "add_int8";
  const GridArgs grid_a{"a_", a_scale, a_zero_point, a_quant_min, a_quant_max}, grid_b{"b_", b_scale, b_zero_point, b_quant_min, b_quant_max};
  Add task;
  task.a_grid = form_grid(op, grid_a);
  task.b_grid = form_grid(op, grid_b);
  check_form_input(op, "a", a, grid_a);
  check_form_input(op, "b", b, grid_b);
  check_add(a, b);
  const auto type = form_output_type(op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  if (type != at::kFloat) task.out_grid = form_grid(op, {"output_", *output_scale, *output_zero_point, output_quant_min, output_quant_max});
  const auto format = a.suggest_memory_format();
  const at::Tensor x = a.contiguous(format), y = b.contiguous(format);
  at::Tensor out = at::empty(a.sizes(), a.options().dtype(type), format);
  task.a = x.const_data_ptr();
  task.b = y.const_data_ptr();
  task.a_type = element(x);
  task.b_type = element(y);
  task.out_type = element(out);
  task.relu = relu;
  task.out = out.mutable_data_ptr();
  at::parallel_for(0, out.numel(), kGrain, [&, kernels = current()](int64_t begin, int64_t end) { kernels.add(task, begin, end); });
  return out;
}

// Pooling runs on pixels of all channels: [N, *spatial, C].
struct Pool {
  at::Tensor input, out;
  int64_t in[3] = {1, 1, 1}, size[3] = {1, 1, 1}, kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, padding[3] = {0, 0, 0}, dilation[3] = {1, 1, 1};

  Pool(const PoolArgs& a, const at::Tensor& x, at::ScalarType type) : input(x.movedim(1, -1).contiguous()) {
    const int64_t spatial = x.dim() - 2;
    std::vector<int64_t> sizes{x.size(0)};
    const auto out_sizes = pool_output_sizes(a, x);
    for (int64_t d = 0; d < spatial; ++d) {
      const size_t from = static_cast<size_t>(d);
      const int64_t to = 3 - spatial + d;
      in[to] = x.size(d + 2);
      size[to] = out_sizes[from + 2].expect_int();
      kernel[to] = a.kernel_size.empty() ? in[to] : a.kernel_size[from];
      if (!a.kernel_size.empty()) {
        stride[to] = a.stride[from];
        padding[to] = a.padding[from];
        dilation[to] = a.dilation[from];
      }
      sizes.push_back(size[to]);
    }
    sizes.push_back(x.size(1));
    out = at::empty(sizes, x.options().dtype(type));
  }

  // run(window, output pixel) for every output pixel; the window's offsets are those taps that lie inside.
  template <typename Run>
  void for_each(Run run) const {
    const int64_t channels = input.size(-1), pixels = size[0] * size[1] * size[2];
    const auto* from = static_cast<const char*>(input.const_data_ptr());
    auto* to = static_cast<char*>(out.mutable_data_ptr());
    const int64_t in_bytes = in[0] * in[1] * in[2] * channels * static_cast<int64_t>(input.element_size());
    const int64_t pixel_bytes = channels * static_cast<int64_t>(out.element_size());
    const int64_t work = std::max<int64_t>(1, channels * kernel[0] * kernel[1] * kernel[2]);
    at::parallel_for(0, input.size(0) * pixels, std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
      std::vector<int64_t> offsets;
      for (int64_t item = begin; item < end; ++item) {
        const int64_t p = item % pixels, at[3] = {p / (size[1] * size[2]), p / size[2] % size[1], p % size[2]};
        offsets.clear();
        int64_t first[3], last[3];
        for (int d = 0; d < 3; ++d) {
          const int64_t start = at[d] * stride[d] - padding[d];
          first[d] = start >= 0 ? 0 : (-start + dilation[d] - 1) / dilation[d];
          last[d] = std::min(kernel[d], (in[d] - start + dilation[d] - 1) / dilation[d]);
        }
        for (int64_t z = first[0]; z < last[0]; ++z) {
          for (int64_t y = first[1]; y < last[1]; ++y) {
            for (int64_t x = first[2]; x < last[2]; ++x) {
              const int64_t pz = at[0] * stride[0] - padding[0] + z * dilation[0], py = at[1] * stride[1] - padding[1] + y * dilation[1];
              const int64_t px = at[2] * stride[2] - padding[2] + x * dilation[2];
              offsets.push_back(((pz * in[1] + py) * in[2] + px) * channels);
            }
          }
        }
        Window window;
        window.input = from + item / pixels * in_bytes;
        window.offsets = offsets.data();
        window.taps = static_cast<int64_t>(offsets.size());
        window.channels = channels;
        window.out = to + item * pixel_bytes;
        run(window);
      }
    });
  }

  at::Tensor result(const at::Tensor& x) const { return out.movedim(-1, 1).contiguous(x.suggest_memory_format()); }
};

at::Tensor avg_pool_int8_cpu(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                             int64_t quant_max, at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                             const std::optional<at::Tensor>& output_scale, const std::optional<at::Tensor>& output_zero_point,
                             int64_t output_quant_min, int64_t output_quant_max) {
  constexpr auto op = "avg_pool_int8";
  const GridArgs grid{"", scale, zero_point, quant_min, quant_max};
  Average task;
  task.grid = form_grid(op, grid);
  check_form_input(op, "input", input, grid);
  const std::vector<int64_t> ones(kernel_size.size(), 1);
  const PoolArgs args{op, kernel_size, stride, padding, ones, false};
  check_pool(args, input);
  const auto type = form_output_type(op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  if (type != at::kFloat) task.out_grid = form_grid(op, {"output_", *output_scale, *output_zero_point, output_quant_min, output_quant_max});
  const Pool pool(args, input, type);
  const int64_t count = pool.kernel[0] * pool.kernel[1] * pool.kernel[2];
  TORCH_CHECK_VALUE(1 <= count && count <= numerics::kAverageMost, op, ": a window must have from 1 to ", numerics::kAverageMost,
                    " elements, got ", count);
  task.count = static_cast<float>(count);
  task.type = element(pool.input);
  task.out_type = element(pool.out);
  if (pool.out.numel() > 0) pool.for_each([&, kernels = current()](const Window& window) { kernels.average(task, window); });
  return pool.result(input);
}

at::Tensor max_pool_codes_cpu(const at::Tensor& codes, at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                              at::IntArrayRef dilation, bool ceil_mode) {
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte || codes.scalar_type() == at::kChar, "max_pool_codes: codes must be uint8 or int8, got ",
                   codes.scalar_type());
  const PoolArgs args{"max_pool_codes", kernel_size, stride, padding, dilation, ceil_mode};
  check_pool(args, codes);
  const Pool pool(args, codes, codes.scalar_type());
  const bool is_signed = codes.scalar_type() == at::kChar;
  if (pool.out.numel() > 0) pool.for_each([&, kernels = current()](const Window& window) { kernels.maximum(window, is_signed); });
  return pool.result(codes);
}

at::Tensor lookup_int8_cpu(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                           int64_t quant_max, const at::Tensor& table) {
  constexpr auto op = "lookup_int8";
  const GridArgs grid{"", scale, zero_point, quant_min, quant_max};
  Lookup task;
  task.grid = form_grid(op, grid);
  check_form_input(op, "input", input, grid);
  check_lookup(table, quant_min, quant_max);
  const bool dense = input.is_non_overlapping_and_dense();
  const at::Tensor x = dense ? input : input.contiguous(), entries = table.contiguous();
  at::Tensor out = at::empty_like(x, x.options().dtype(table.scalar_type()));
  task.input = x.const_data_ptr();
  task.type = element(x);
  task.table = entries.const_data_ptr();
  task.out_type = element(entries);
  task.out = out.mutable_data_ptr();
  at::parallel_for(0, out.numel(), kGrain, [&, kernels = current()](int64_t begin, int64_t end) { kernels.lookup(task, begin, end); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("add_int8", &add_int8_cpu);
  m.impl("avg_pool_int8", &avg_pool_int8_cpu);
  m.impl("max_pool_codes", &max_pool_codes_cpu);
  m.impl("lookup_int8", &lookup_int8_cpu);
}

}  // namespace torchqat
