// Shapes of choose_qparams, qparams_from_range and observe_minmax_.
#include "ops/torch_headers.h"

#include "ops/qparams.h"

namespace torchqat {
namespace {

std::tuple<at::Tensor, at::Tensor> empty_qparams(const at::Tensor& like, c10::SymIntArrayRef shape) {
  return {at::empty_symint(shape, like.options().dtype(compute_type(like))),
          at::empty_symint(shape, like.options().dtype(at::kInt))};
}

std::tuple<at::Tensor, at::Tensor> choose_qparams_meta(const at::Tensor& input, c10::SymIntArrayRef block_size,
                                                       int64_t quant_min, int64_t quant_max, bool symmetric) {
  return empty_qparams(input, check_choose_qparams("choose_qparams", input, block_size, quant_min, quant_max, symmetric));
}

std::tuple<at::Tensor, at::Tensor> qparams_from_range_meta(const at::Tensor& min_val, const at::Tensor& max_val,
                                                           int64_t quant_min, int64_t quant_max, bool symmetric) {
  check_qparams_from_range(min_val, max_val, quant_min, quant_max, symmetric);
  return empty_qparams(min_val, min_val.sym_sizes());
}

std::tuple<at::Tensor, at::Tensor> observe_minmax_meta(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                       at::Tensor& nonfinite_count, c10::SymIntArrayRef block_size,
                                                       double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                       bool symmetric) {
  check_observe_minmax(input, min_val, max_val, nonfinite_count, block_size, averaging_constant, quant_min, quant_max,
                       symmetric);
  return empty_qparams(min_val, min_val.sym_sizes());
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("choose_qparams", &choose_qparams_meta);
  m.impl("qparams_from_range", &qparams_from_range_meta);
  m.impl("observe_minmax_", &observe_minmax_meta);
}

}  // namespace
}  // namespace torchqat
