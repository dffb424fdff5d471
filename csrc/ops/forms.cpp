// Integer forms of operations without weights: schemas, checks and C++ entry.
#include "ops/forms.h"

#include "numerics/average.h"
#include "ops/call.h"
#include "torchqat/forms.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "add_int8(Tensor a, Tensor b, Tensor a_scale, Tensor a_zero_point, int a_quant_min, int a_quant_max, Tensor b_scale, "
      "Tensor b_zero_point, int b_quant_min, int b_quant_max, bool relu=False, Tensor? output_scale=None, "
      "Tensor? output_zero_point=None, int output_quant_min=0, int output_quant_max=255) -> Tensor");
  m.def(
      "avg_pool_int8(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, int[] kernel_size, "
      "int[] stride, int[] padding, Tensor? output_scale=None, Tensor? output_zero_point=None, int output_quant_min=0, "
      "int output_quant_max=255) -> Tensor");
  m.def(
      "max_pool_codes(Tensor codes, int[] kernel_size, int[] stride, int[] padding, int[] dilation, bool ceil_mode=False) -> "
      "Tensor");
  m.def("lookup_int8(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, Tensor table) -> Tensor");
}

void check_form_grid(const char* op, const GridArgs& g) {
  TORCH_CHECK_TYPE(at::isFloatingType(g.scale.scalar_type()), op, ": ", g.name, "scale must have a floating dtype, got ",
                   g.scale.scalar_type());
  TORCH_CHECK_TYPE(at::isIntegralType(g.zero_point.scalar_type(), false), op, ": ", g.name,
                   "zero_point must have an integer dtype, got ", g.zero_point.scalar_type());
  TORCH_CHECK_VALUE(g.scale.sym_numel() == 1, op, ": ", g.name, "scale must have 1 element, got shape ", g.scale.sym_sizes());
  TORCH_CHECK_VALUE(g.zero_point.sym_numel() == 1, op, ": ", g.name, "zero_point must have 1 element, got shape ",
                    g.zero_point.sym_sizes());
  TORCH_CHECK_VALUE(-128 <= g.quant_min && g.quant_min < g.quant_max && g.quant_max <= (g.quant_min < 0 ? 127 : 255), op, ": ", g.name,
                    "quant_min and ", g.name, "quant_max must be an increasing range within [-128, 127] or [0, 255], got [", g.quant_min,
                    ", ", g.quant_max, "]");
}

void check_form_input(const char* op, const char* name, const at::Tensor& input, const GridArgs& g) {
  const auto type = input.scalar_type(), wanted = g.quant_min < 0 ? at::kChar : at::kByte;
  TORCH_CHECK_TYPE(type == at::kFloat || type == wanted, op, ": ", name, " must be float32, or ", wanted, " codes for the range [",
                   g.quant_min, ", ", g.quant_max, "], got ", type);
}

at::ScalarType form_output_type(const char* op, const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& zero_point,
                                int64_t quant_min, int64_t quant_max) {
  const bool given = scale.has_value() && scale->defined();
  TORCH_CHECK_VALUE(given == (zero_point.has_value() && zero_point->defined()), op,
                    ": output_scale and output_zero_point must be given together");
  if (!given) return at::kFloat;
  check_form_grid(op, {"output_", *scale, *zero_point, quant_min, quant_max});
  return quant_min < 0 ? at::kChar : at::kByte;
}

void check_add(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK_VALUE(a.sym_sizes() == b.sym_sizes(), "add_int8: a and b must have one shape, got ", a.sym_sizes(), " and ", b.sym_sizes());
  TORCH_CHECK_VALUE(a.device() == b.device(), "add_int8: a and b must be on one device, got ", a.device(), " and ", b.device());
}

void check_lookup(const at::Tensor& table, int64_t quant_min, int64_t quant_max) {
  const auto type = table.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kByte || type == at::kChar, "lookup_int8: table must be float32, uint8 or int8, got ",
                   type);
  TORCH_CHECK_VALUE(table.dim() == 1 && table.sym_size(0) == quant_max - quant_min + 1, "lookup_int8: table must have shape [",
                    quant_max - quant_min + 1, "] for the range [", quant_min, ", ", quant_max, "], got ", table.sym_sizes());
}

void check_pool(const PoolArgs& a, const at::Tensor& input) {
  TORCH_CHECK_VALUE(input.dim() >= 3 && input.dim() <= 5, a.op, ": input must be [N, C, *spatial] with 1 to 3 spatial dimensions, got shape ",
                    input.sym_sizes());
  if (a.kernel_size.empty()) return;
  const size_t spatial = static_cast<size_t>(input.dim()) - 2;
  for (const auto& [name, list, least] : {std::tuple<const char*, at::IntArrayRef, int64_t>{"kernel_size", a.kernel_size, 1},
                                          {"stride", a.stride, 1},
                                          {"padding", a.padding, 0},
                                          {"dilation", a.dilation, 1}}) {
    TORCH_CHECK_VALUE(list.size() == spatial, a.op, ": ", name, " must have ", spatial, " entries, got ", list);
    for (int64_t x : list) TORCH_CHECK_VALUE(x >= least, a.op, ": ", name, " must be at least ", least, ", got ", list);
  }
  for (size_t d = 0; d < spatial; ++d) {
    TORCH_CHECK_VALUE(2 * a.padding[d] <= a.kernel_size[d], a.op, ": padding must be at most half of kernel_size ", a.kernel_size, ", got ",
                      a.padding);
  }
}

c10::SymDimVector pool_output_sizes(const PoolArgs& a, const at::Tensor& input) {
  c10::SymDimVector sizes{input.sym_size(0), input.sym_size(1)};
  for (int64_t d = 0; d < input.dim() - 2; ++d) {
    const c10::SymInt in = input.sym_size(d + 2);
    if (a.kernel_size.empty()) {
      sizes.push_back(1);
      continue;
    }
    const size_t at = static_cast<size_t>(d);
    const int64_t reach = a.dilation[at] * (a.kernel_size[at] - 1) + 1, stride = a.stride[at];
    TORCH_CHECK_VALUE(in + 2 * a.padding[at] >= reach, a.op, ": kernel_size ", a.kernel_size, " must fit the input, got shape ",
                      input.sym_sizes());
    c10::SymInt out = (in + 2 * a.padding[at] - reach + (a.ceil_mode ? stride - 1 : 0)) / stride + 1;
    // As in ATen: a window must start inside the input or its left padding.
    if (a.ceil_mode && (out - 1) * stride >= in + a.padding[at]) out = out - 1;
    sizes.push_back(out);
  }
  return sizes;
}

at::Tensor add_int8(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_scale, const at::Tensor& a_zero_point,
                    int64_t a_quant_min, int64_t a_quant_max, const at::Tensor& b_scale, const at::Tensor& b_zero_point,
                    int64_t b_quant_min, int64_t b_quant_max, bool relu, const std::optional<at::Tensor>& output_scale,
                    const std::optional<at::Tensor>& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  static const auto op = find_op<decltype(add_int8)>("torchqat::add_int8");
  return op.call(a, b, a_scale, a_zero_point, a_quant_min, a_quant_max, b_scale, b_zero_point, b_quant_min, b_quant_max, relu,
                 output_scale, output_zero_point, output_quant_min, output_quant_max);
}

at::Tensor avg_pool_int8(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                         int64_t quant_max, at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                         const std::optional<at::Tensor>& output_scale, const std::optional<at::Tensor>& output_zero_point,
                         int64_t output_quant_min, int64_t output_quant_max) {
  static const auto op = find_op<decltype(avg_pool_int8)>("torchqat::avg_pool_int8");
  return op.call(input, scale, zero_point, quant_min, quant_max, kernel_size, stride, padding, output_scale, output_zero_point,
                 output_quant_min, output_quant_max);
}

at::Tensor max_pool_codes(const at::Tensor& codes, at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                          at::IntArrayRef dilation, bool ceil_mode) {
  static const auto op = find_op<decltype(max_pool_codes)>("torchqat::max_pool_codes");
  return op.call(codes, kernel_size, stride, padding, dilation, ceil_mode);
}

at::Tensor lookup_int8(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                       int64_t quant_max, const at::Tensor& table) {
  static const auto op = find_op<decltype(lookup_int8)>("torchqat::lookup_int8");
  return op.call(input, scale, zero_point, quant_min, quant_max, table);
}

}  // namespace torchqat
