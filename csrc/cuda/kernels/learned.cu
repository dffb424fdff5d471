// The backwards of learned scales and clipping bounds.
#include "cuda/kernels/learned.cuh"

#include "numerics/learned.h"

namespace torchqat::cuda {
namespace {

// The choice is uniform: one kernel serves both.
struct EitherRule {
  bool pact;
  template <typename V>
  __device__ __forceinline__ numerics::LearnedTerms<V> terms(V x, V dy, V scale, V zero_point, V low, V high) const {
    return pact ? numerics::pact_terms(x, dy, scale, zero_point, low, high)
                : numerics::learned_terms(x, dy, scale, zero_point, low, high);
  }
};

}  // namespace

void learned_backward(const LearnedArgs& a, const RangePlan& plan, Float type, Stream stream) {
  learned_sums(a, EitherRule{a.pact}, plan, type, stream);
}

}  // namespace torchqat::cuda
