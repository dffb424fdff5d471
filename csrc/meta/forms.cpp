// Shapes of the integer forms.
#include "ops/forms.h"

namespace torchqat {
namespace {

at::Tensor add_int8_meta(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_scale, const at::Tensor& a_zero_point,
                         int64_t a_quant_min, int64_t a_quant_max, const at::Tensor& b_scale, const at::Tensor& b_zero_point,
                         int64_t b_quant_min, int64_t b_quant_max, bool, const std::optional<at::Tensor>& output_scale,
                         const std::optional<at::Tensor>& output_zero_point, int64_t output_quant_min, int64_t output_quant_max) {
  const GridArgs grid_a{"a_", a_scale, a_zero_point, a_quant_min, a_quant_max}, grid_b{"b_", b_scale, b_zero_point, b_quant_min, b_quant_max};
  check_form_grid("add_int8", grid_a);
  check_form_grid("add_int8", grid_b);
  check_form_input("add_int8", "a", a, grid_a);
  check_form_input("add_int8", "b", b, grid_b);
  check_add(a, b);
  const auto type = form_output_type("add_int8", output_scale, output_zero_point, output_quant_min, output_quant_max);
  return at::empty_symint(a.sym_sizes(), a.options().dtype(type), a.suggest_memory_format());
}

at::Tensor avg_pool_int8_meta(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                              int64_t quant_max, at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                              const std::optional<at::Tensor>& output_scale, const std::optional<at::Tensor>& output_zero_point,
                              int64_t output_quant_min, int64_t output_quant_max) {
  const GridArgs grid{"", scale, zero_point, quant_min, quant_max};
  check_form_grid("avg_pool_int8", grid);
  check_form_input("avg_pool_int8", "input", input, grid);
  const std::vector<int64_t> ones(kernel_size.size(), 1);
  const PoolArgs args{"avg_pool_int8", kernel_size, stride, padding, ones, false};
  check_pool(args, input);
  const auto type = form_output_type("avg_pool_int8", output_scale, output_zero_point, output_quant_min, output_quant_max);
  return at::empty_symint(pool_output_sizes(args, input), input.options().dtype(type), input.suggest_memory_format());
}

at::Tensor max_pool_codes_meta(const at::Tensor& codes, at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                               at::IntArrayRef dilation, bool ceil_mode) {
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte || codes.scalar_type() == at::kChar, "max_pool_codes: codes must be uint8 or int8, got ",
                   codes.scalar_type());
  const PoolArgs args{"max_pool_codes", kernel_size, stride, padding, dilation, ceil_mode};
  check_pool(args, codes);
  return at::empty_symint(pool_output_sizes(args, codes), codes.options(), codes.suggest_memory_format());
}

at::Tensor lookup_int8_meta(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
                            int64_t quant_max, const at::Tensor& table) {
  const GridArgs grid{"", scale, zero_point, quant_min, quant_max};
  check_form_grid("lookup_int8", grid);
  check_form_input("lookup_int8", "input", input, grid);
  check_lookup(table, quant_min, quant_max);
  return at::empty_like(input, input.options().dtype(table.scalar_type()));
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("add_int8", &add_int8_meta);
  m.impl("avg_pool_int8", &avg_pool_int8_meta);
  m.impl("max_pool_codes", &max_pool_codes_meta);
  m.impl("lookup_int8", &lookup_int8_meta);
}

}  // namespace torchqat
