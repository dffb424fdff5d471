// Schemas, checks and C++ entry points of choose_qparams, qparams_from_range and observe_minmax_.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/qparams.h"
#include "torchqat/qparams.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "choose_qparams(Tensor input, SymInt[] block_size, int quant_min, int quant_max, bool symmetric) "
      "-> (Tensor scale, Tensor zero_point)");
  m.def(
      "qparams_from_range(Tensor min_val, Tensor max_val, int quant_min, int quant_max, bool symmetric) "
      "-> (Tensor scale, Tensor zero_point)");
  m.def(
      "observe_minmax_(Tensor input, Tensor(a!) min_val, Tensor(b!) max_val, Tensor(c!) nonfinite_count, SymInt[] block_size, "
      "float averaging_constant, int quant_min, int quant_max, bool symmetric) -> (Tensor scale, Tensor zero_point)");
}

void check_chosen_grid(const char* op, int64_t quant_min, int64_t quant_max, bool symmetric) {
  check_grid(op, quant_min, quant_max);
  TORCH_CHECK_VALUE(!symmetric || quant_max > 0, op, ": quant_max must be > 0 for symmetric scales, got ", quant_max);
}

SymSizes check_choose_qparams(const char* op, const at::Tensor& input, c10::SymIntArrayRef block_size, int64_t quant_min,
                              int64_t quant_max, bool symmetric) {
  check_floating(op, "input", input);
  check_chosen_grid(op, quant_min, quant_max, symmetric);
  return scale_shape(op, input.sym_sizes(), block_size);
}

void check_qparams_from_range(const at::Tensor& min_val, const at::Tensor& max_val, int64_t quant_min, int64_t quant_max,
                              bool symmetric) {
  const char* op = "qparams_from_range";
  check_floating(op, "min_val", min_val);
  check_floating(op, "max_val", max_val);
  check_chosen_grid(op, quant_min, quant_max, symmetric);
  TORCH_CHECK_VALUE(min_val.sym_sizes() == max_val.sym_sizes(), op, ": max_val must have the shape of min_val ",
                    min_val.sym_sizes(), ", got ", max_val.sym_sizes());
  TORCH_CHECK_TYPE(min_val.scalar_type() == max_val.scalar_type(), op, ": max_val must have the dtype of min_val ",
                   dtype_name(min_val.scalar_type()), ", got ", dtype_name(max_val.scalar_type()));
  TORCH_CHECK_VALUE(min_val.device() == max_val.device(), op, ": max_val must be on the device of min_val ", min_val.device(),
                    ", got ", max_val.device());
}

void check_observe_minmax(const at::Tensor& input, const at::Tensor& min_val, const at::Tensor& max_val,
                          const at::Tensor& nonfinite_count, c10::SymIntArrayRef block_size, double averaging_constant,
                          int64_t quant_min, int64_t quant_max, bool symmetric) {
  const char* op = "observe_minmax_";
  const auto shape = check_choose_qparams(op, input, block_size, quant_min, quant_max, symmetric);
  TORCH_CHECK_VALUE(averaging_constant > 0 && averaging_constant <= 1, op, ": averaging_constant must be in (0, 1], got ",
                    averaging_constant);
  check_qparams_from_range(min_val, max_val, quant_min, quant_max, symmetric);
  c10::SymInt entries = 1;
  for (const auto& n : shape) entries = entries * n;
  TORCH_CHECK_VALUE(min_val.sym_numel() == entries, op, ": min_val and max_val must have ", entries, " entries (shape ",
                    c10::SymIntArrayRef(shape), "), got ", min_val.sym_sizes());
  TORCH_CHECK_VALUE(min_val.device() == input.device() && nonfinite_count.device() == input.device(), op,
                    ": min_val, max_val and nonfinite_count must be on the input's device ", input.device(), ", got ",
                    min_val.device(), " and ", nonfinite_count.device());
  TORCH_CHECK_TYPE(nonfinite_count.scalar_type() == at::kLong, op, ": nonfinite_count must be int64, got ",
                   dtype_name(nonfinite_count.scalar_type()));
  TORCH_CHECK_VALUE(nonfinite_count.sym_numel() == 1, op, ": nonfinite_count must have one element, got ",
                    nonfinite_count.sym_sizes());
}

std::tuple<at::Tensor, at::Tensor> choose_qparams(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min,
                                                  int64_t quant_max, bool symmetric) {
  using Signature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, c10::SymIntArrayRef, int64_t, int64_t, bool);
  static const auto op = find_op<Signature>("torchqat::choose_qparams");
  return op.call(input, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, symmetric);
}

std::tuple<at::Tensor, at::Tensor> qparams_from_range(const at::Tensor& min_val, const at::Tensor& max_val, int64_t quant_min,
                                                      int64_t quant_max, bool symmetric) {
  static const auto op = find_op<decltype(qparams_from_range)>("torchqat::qparams_from_range");
  return op.call(min_val, max_val, quant_min, quant_max, symmetric);
}

std::tuple<at::Tensor, at::Tensor> observe_minmax_symint(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                         at::Tensor& nonfinite_count, c10::SymIntArrayRef block_size,
                                                         double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                         bool symmetric) {
  static const auto op = find_op<decltype(observe_minmax_symint)>("torchqat::observe_minmax_");
  return op.call(input, min_val, max_val, nonfinite_count, block_size, averaging_constant, quant_min, quant_max, symmetric);
}

std::tuple<at::Tensor, at::Tensor> observe_minmax_(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                   at::Tensor& nonfinite_count, at::IntArrayRef block_size,
                                                   double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                   bool symmetric) {
  return observe_minmax_symint(input, min_val, max_val, nonfinite_count, c10::fromIntArrayRefSlow(block_size),
                               averaging_constant, quant_min, quant_max, symmetric);
}

}  // namespace torchqat
