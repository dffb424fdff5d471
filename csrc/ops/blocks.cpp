// Checks and shapes shared by the ops with a block structure.
#include "ops/torch_headers.h"

#include "ops/blocks.h"

#include <algorithm>
#include <numeric>

namespace torchqat {
namespace {

constexpr int64_t largest_level = int64_t{1} << 24;

std::string joined(c10::SymIntArrayRef sizes) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < sizes.size(); ++i) out << (i ? ", " : "") << sizes[i];
  out << ']';
  return out.str();
}

bool same_but_for_ones(c10::SymIntArrayRef a, c10::SymIntArrayRef b) {
  size_t i = 0, j = 0;
  while (true) {
    while (i < a.size() && a[i] == 1) ++i;
    while (j < b.size() && b[j] == 1) ++j;
    if (i == a.size() || j == b.size()) return i == a.size() && j == b.size();
    if (a[i++] != b[j++]) return false;
  }
}

}  // namespace

SymSizes scale_shape(const char* op, c10::SymIntArrayRef input_sizes, c10::SymIntArrayRef block_size) {
  SymSizes shape;
  if (block_size.empty()) return shape;
  TORCH_CHECK_VALUE(block_size.size() == input_sizes.size(), op, ": block_size must have one entry per input dimension (",
                    input_sizes.size(), ") or none, got ", joined(block_size));
  for (size_t d = 0; d < block_size.size(); ++d) {
    const auto& block = block_size[d];
    if (block == -1) {
      shape.push_back(1);
      continue;
    }
    TORCH_CHECK_VALUE(block > 0, op, ": block_size entries must be positive, or -1 for the whole dimension, got ",
                      joined(block_size));
    shape.push_back((input_sizes[d] + block - 1) / block);
  }
  return shape;
}

void check_floating(const char* op, const char* argument, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf, op, ": ", argument,
                   " must be float32, float64, bfloat16 or float16, got ", dtype_name(type));
}

void check_like_input(const char* op, const at::Tensor& grad, const at::Tensor& input) {
  TORCH_CHECK_VALUE(grad.sym_sizes() == input.sym_sizes(), op, ": grad must have the input's shape ", input.sym_sizes(),
                    ", got ", grad.sym_sizes());
  TORCH_CHECK_TYPE(grad.scalar_type() == input.scalar_type(), op, ": grad must have the input's dtype ",
                   dtype_name(input.scalar_type()), ", got ", dtype_name(grad.scalar_type()));
}

void check_grid(const char* op, int64_t quant_min, int64_t quant_max) {
  TORCH_CHECK_VALUE(quant_min < quant_max, op, ": quant_min must be less than quant_max, got ", quant_min, " and ", quant_max);
  TORCH_CHECK_VALUE(quant_min >= -largest_level && quant_max <= largest_level, op,
                    ": quant_min and quant_max must be within +-2^24, got ", quant_min, " and ", quant_max);
}

void check_qparams(const char* op, const at::Tensor& input, const at::Tensor& scale,
                   const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size, bool floating_zero_point) {
  check_floating(op, "scale", scale);
  TORCH_CHECK_VALUE(scale.device() == input.device(), op, ": scale must be on the input's device ", input.device(), ", got ",
                    scale.device());
  if (block_size.empty()) {
    TORCH_CHECK_VALUE(scale.sym_numel() == 1, op, ": scale must have one element for block_size [], got ",
                      joined(scale.sym_sizes()));
  } else {
    const auto shape = scale_shape(op, input.sym_sizes(), block_size);
    TORCH_CHECK_VALUE(same_but_for_ones(scale.sym_sizes(), shape), op, ": scale must have shape ", joined(shape),
                      " for block_size ", joined(block_size), " and input ", joined(input.sym_sizes()), ", got ",
                      joined(scale.sym_sizes()));
  }
  if (!zero_point.has_value()) return;
  const auto& z = *zero_point;
  const bool integer = at::isIntegralType(z.scalar_type(), /*includeBool=*/false);
  TORCH_CHECK_TYPE(integer || (floating_zero_point && at::isFloatingType(z.scalar_type())), op, ": zero_point must be an integer ",
                   floating_zero_point ? "or floating " : "", "tensor, got ", dtype_name(z.scalar_type()));
  TORCH_CHECK_VALUE(z.device() == input.device(), op, ": zero_point must be on the input's device ", input.device(), ", got ",
                    z.device());
  TORCH_CHECK_VALUE(block_size.empty() ? z.sym_numel() == 1 : same_but_for_ones(z.sym_sizes(), scale.sym_sizes()), op,
                    ": zero_point must have the shape of scale ", joined(scale.sym_sizes()), ", got ", joined(z.sym_sizes()));
}

DimOrder dim_order(const at::Tensor& dense) {
  DimOrder order;
  if (dense.is_contiguous()) return order;
  const auto sizes = dense.sym_sizes();
  const auto strides = dense.sym_strides();
  order.resize(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  // Insertion sort: few dimensions, symbolic strides. A dimension of size 1 may stand anywhere.
  for (size_t i = 1; i < order.size(); ++i) {
    for (size_t j = i; j > 0 && strides[order[j - 1]] < strides[order[j]]; --j) std::swap(order[j - 1], order[j]);
  }
  return order;
}

at::Tensor empty_in_order(const at::Tensor& like, at::IntArrayRef order) {
  if (order.empty()) return at::empty_symint(like.sym_sizes(), like.options());
  const auto sizes = like.sym_sizes();
  SymSizes strides(sizes.size(), 1);
  c10::SymInt step = 1;
  for (size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = step;
    step = step * sizes[order[i]].max(1);
  }
  return at::empty_strided_symint(sizes, strides, like.options());
}

}  // namespace torchqat
