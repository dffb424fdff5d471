// Statistics are constants to autograd; observe_histogram_ changes its state, which saved versions must notice.
#include "ops/torch_headers.h"

#include "autograd/no_gradient.h"
#include "torchqat/histogram.h"

namespace torchqat {
namespace {

at::Tensor observe_inplace(const at::Tensor& input, at::Tensor& histogram, at::Tensor& bound, at::Tensor& min_val,
                           at::Tensor& max_val, at::Tensor& nonfinite_count) {
  at::Tensor count;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    count = observe_histogram_(input, histogram, bound, min_val, max_val, nonfinite_count);
  }
  for (const auto& state : {histogram, bound, min_val, max_val, nonfinite_count}) torch::autograd::impl::bump_version(state);
  return count;
}

TORCH_LIBRARY_IMPL(torchqat, Autograd, m) {
  m.impl("observe_histogram_", no_gradient());
  m.impl("qparams_from_histogram", no_gradient());
}
TORCH_LIBRARY_IMPL(torchqat, ADInplaceOrView, m) { m.impl("observe_histogram_", &observe_inplace); }

}  // namespace
}  // namespace torchqat
