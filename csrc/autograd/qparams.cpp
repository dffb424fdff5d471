// Statistics are constants to autograd. An observer changes its state, which saved versions must notice.
#include "ops/torch_headers.h"

#include "autograd/no_gradient.h"
#include "ops/qparams.h"

namespace torchqat {
namespace {

std::tuple<at::Tensor, at::Tensor> observe_minmax_inplace(const at::Tensor& input, at::Tensor& min_val, at::Tensor& max_val,
                                                          at::Tensor& nonfinite_count, c10::SymIntArrayRef block_size,
                                                          double averaging_constant, int64_t quant_min, int64_t quant_max,
                                                          bool symmetric) {
  std::tuple<at::Tensor, at::Tensor> qparams;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    qparams = observe_minmax_symint(input, min_val, max_val, nonfinite_count, block_size, averaging_constant, quant_min,
                                    quant_max, symmetric);
  }
  for (const auto& state : {min_val, max_val, nonfinite_count}) torch::autograd::impl::bump_version(state);
  return qparams;
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("choose_qparams", no_gradient());
  m.impl("qparams_from_range", no_gradient());
  m.impl("observe_minmax_", no_gradient());
}
TORCH_LIBRARY_IMPL(torchqat, ADInplaceOrView, m) { m.impl("observe_minmax_", &observe_minmax_inplace); }

}  // namespace
}  // namespace torchqat
