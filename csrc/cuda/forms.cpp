// Integer forms of operations without weights, and the linear layer between codes, on CUDA: by the library's ops and ATen's, which
// give the same bits (sums of up to 65536 codes are exact in float32).
#include "ops/forms.h"

#include "numerics/average.h"
#include "ops/call.h"
#include "torchqat/fake_quantize.h"
#include "torchqat/linear_int8.h"
#include "torchqat/linear_int8_codes.h"
#include "torchqat/quantize.h"

namespace torchqat::cuda {
namespace {

// (q - z) * s of codes or of floats.
at::Tensor value_of(const at::Tensor& input, const GridArgs& g) {
  if (!input.is_floating_point()) return dequantize(input, g.scale, g.zero_point, {}, at::kFloat);
  return fake_quantize(input, g.scale, g.zero_point, {}, g.quant_min, g.quant_max);
}

at::Tensor result(const at::Tensor& y, const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& zero_point, int64_t low,
                  int64_t high) {
  if (!scale.has_value()) return y;
  return quantize(y, *scale, *zero_point, {}, low, high, low < 0 ? at::kChar : at::kByte);
}

at::Tensor add_int8_op(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_scale, const at::Tensor& a_zero_point,
                       int64_t a_quant_min, int64_t a_quant_max, const at::Tensor& b_scale, const at::Tensor& b_zero_point,
                       int64_t b_quant_min, int64_t b_quant_max, bool relu, const std::optional<at::Tensor>& output_scale,
                       const std::optional<at::Tensor>& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  const GridArgs grid_a{"a_", a_scale, a_zero_point, a_quant_min, a_quant_max}, grid_b{"b_", b_scale, b_zero_point, b_quant_min, b_quant_max};
  check_form_grid("add_int8", grid_a);
  check_form_grid("add_int8", grid_b);
  check_form_input("add_int8", "a", a, grid_a);
  check_form_input("add_int8", "b", b, grid_b);
  check_add(a, b);
  form_output_type("add_int8", output_scale, output_zero_point, output_quant_min, output_quant_max);
  const at::Tensor sum = value_of(a, grid_a) + value_of(b, grid_b);
  return result(relu ? sum.relu() : sum, output_scale, output_zero_point, output_quant_min, output_quant_max);
}

at::Tensor avg_pool_int8_op(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                            int64_t quant_max, at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                            const std::optional<at::Tensor>& output_scale, const std::optional<at::Tensor>& output_zero_point,
                            int64_t output_quant_min, int64_t output_quant_max) {
  constexpr auto op = "avg_pool_int8";
  const GridArgs grid{"", scale, zero_point, quant_min, quant_max};
  check_form_grid(op, grid);
  check_form_input(op, "input", input, grid);
  const std::vector<int64_t> ones(kernel_size.size(), 1);
  check_pool({op, kernel_size, stride, padding, ones, false}, input);
  form_output_type(op, output_scale, output_zero_point, output_quant_min, output_quant_max);
  const at::Tensor one = at::ones_like(scale, scale.options().dtype(at::kFloat));
  const at::Tensor q = input.is_floating_point() ? fake_quantize(input / scale, one, zero_point, {}, quant_min, quant_max)
                                                 : dequantize(input, one, zero_point, {}, at::kFloat);
  const int64_t dims = input.dim() - 2;
  int64_t count = 1;
  at::Tensor sum;
  if (kernel_size.empty()) {
    std::vector<int64_t> spatial;
    for (int64_t d = 2; d < input.dim(); ++d) {
      spatial.push_back(d);
      count *= input.size(d);
    }
    sum = q.sum(spatial, /*keepdim=*/true);
  } else {
    for (int64_t k : kernel_size) count *= k;
    if (dims == 1) {
      sum = at::avg_pool2d(q.unsqueeze(2), {1, kernel_size[0]}, {1, stride[0]}, {0, padding[0]}, false, true, 1).squeeze(2);
    } else if (dims == 2) {
      sum = at::avg_pool2d(q, kernel_size, stride, padding, false, true, 1);
    } else {
      sum = at::avg_pool3d(q, kernel_size, stride, padding, false, true, 1);
    }
  }
  TORCH_CHECK_VALUE(1 <= count && count <= numerics::kAverageMost, op, ": a window must have from 1 to ", numerics::kAverageMost,
                    " elements, got ", count);
  // A number instead of a tensor would be multiplied by its reciprocal.
  const at::Tensor factor = scale.to(at::kFloat) / at::full_like(scale, count, scale.options().dtype(at::kFloat));
  return result(sum * factor, output_scale, output_zero_point, output_quant_min, output_quant_max);
}

at::Tensor max_pool_codes_op(const at::Tensor& codes, at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                             at::IntArrayRef dilation, bool ceil_mode) {
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte || codes.scalar_type() == at::kChar, "max_pool_codes: codes must be uint8 or int8, got ",
                   codes.scalar_type());
  check_pool({"max_pool_codes", kernel_size, stride, padding, dilation, ceil_mode}, codes);
  const at::Tensor x = codes.to(at::kFloat);
  const at::Tensor y = codes.dim() == 3   ? at::max_pool1d(x, kernel_size, stride, padding, dilation, ceil_mode)
                       : codes.dim() == 4 ? at::max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
                                          : at::max_pool3d(x, kernel_size, stride, padding, dilation, ceil_mode);
  return y.to(codes.scalar_type());
}

at::Tensor lookup_int8_op(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                          int64_t quant_max, const at::Tensor& table) {
  const GridArgs grid{"", scale, zero_point, quant_min, quant_max};
  check_form_grid("lookup_int8", grid);
  check_form_input("lookup_int8", "input", input, grid);
  check_lookup(table, quant_min, quant_max);
  const at::Tensor codes =
      input.is_floating_point() ? quantize(input, scale, zero_point, {}, quant_min, quant_max, quant_min < 0 ? at::kChar : at::kByte) : input;
  const at::Tensor index = codes.to(at::kLong).clamp(quant_min, quant_max) - quant_min;
  const at::Tensor y = table.index_select(0, index.reshape(-1)).reshape(input.sizes());
  return input.is_floating_point() && table.is_floating_point() ? y.masked_fill(input.isnan(), std::nan("")) : y;
}

at::Tensor linear_int8_codes_op(const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
                                const std::optional<at::Tensor>& bias, const at::Tensor& input_scale,
                                const at::Tensor& input_zero_point, int64_t quant_min, int64_t quant_max, bool relu,
                                const std::optional<at::Tensor>& output_scale, const std::optional<at::Tensor>& output_zero_point,
                                int64_t output_quant_min, int64_t output_quant_max) {
  form_output_type("linear_int8_codes", output_scale, output_zero_point, output_quant_min, output_quant_max);
  // The codes of a code's value are that code.
  const at::Tensor x = input.is_floating_point() ? input : dequantize(input, input_scale, input_zero_point, {}, at::kFloat);
  const at::Tensor y = linear_int8(x, packed_weight, weight_scale, bias, input_scale, input_zero_point, quant_min, quant_max);
  return result(relu ? y.relu() : y, output_scale, output_zero_point, output_quant_min, output_quant_max);
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("add_int8", &add_int8_op);
  m.impl("avg_pool_int8", &avg_pool_int8_op);
  m.impl("max_pool_codes", &max_pool_codes_op);
  m.impl("lookup_int8", &lookup_int8_op);
  m.impl("linear_int8_codes", &linear_int8_codes_op);
}

}  // namespace
}  // namespace torchqat::cuda
