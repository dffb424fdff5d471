// The source of dorefa_{scalar,avx2,avx512}.cpp.
#pragma once
#include "cpu/kernels/dorefa.h"
#include "cpu/kernels/learned_generic.h"
#include "cpu/kernels/of_scale_generic.h"
#include "cpu/vec/vec_bits.h"
#include "numerics/dorefa.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

template <typename V>
void dorefa_limits(const typename V::Scalar* largest, int64_t n, typename V::Scalar* limit) {
  for (int64_t i = 0; i < n; i += V::size) {
    typename V::Scalar some[V::size] = {};
    const int64_t left = n - i < V::size ? n - i : V::size;
    for (int64_t j = 0; j < left; ++j) some[j] = largest[i + j];
    numerics::dorefa_limit(V::load(some)).store(some);
    for (int64_t j = 0; j < left; ++j) limit[i + j] = some[j];
  }
}

struct DorefaWeight {
  template <typename V>
  static TORCHQAT_INLINE V of(V x, V limit) {
    return numerics::dorefa_weight(x, limit);
  }
};

template <typename T, typename V>
void dorefa_forward(const AffineArgs& a, int64_t begin, int64_t end) {
  of_scale<DorefaWeight, T, V>(a, begin, end);
}

template <typename T, typename V>
void dorefa_at_limit(const AtLimitArgs& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  const T* x = static_cast<const T*>(a.x);
  T* dx = static_cast<T*>(a.dx);
  for_runs(*a.blocks, begin, end, [&](int64_t at, int64_t n, int64_t index) {
    const V limit(static_cast<const S*>(a.limit)[index]), share(static_cast<const S*>(a.share)[index]);
    const V threshold(static_cast<const S*>(a.threshold)[index]), infinity(std::numeric_limits<S>::infinity());
    const auto take = [&](const T* from, T* to) {
      const V own = V::load(from);
      // Few elements are there: the others' gradients need not be read.
      if (numerics::mask_bits(in_range(lane_abs(own), threshold, infinity)) == 0) return;
      numerics::dorefa_at_limit(own, V::load(to), limit, share).store(to);
    };
    int64_t i = 0;
    for (; i + V::size <= n; i += V::size) take(x + at + i, dx + at + i);
    if (i == n) return;
    T last[V::size] = {}, last_dx[V::size] = {};
    const size_t bytes = static_cast<size_t>(n - i) * sizeof(T);
    std::memcpy(last, x + at + i, bytes);
    std::memcpy(last_dx, dx + at + i, bytes);
    take(last, last_dx);
    std::memcpy(dx + at + i, last_dx, bytes);
  });
}

template <typename T, typename V>
void dorefa_backward(const LearnedArgs& a, int64_t begin, int64_t end) {
  learned<numerics::DorefaRule, T, V>(a, begin, end);
}

}  // namespace torchqat::cpu

// Entries in the order of Float.
#define TORCHQAT_DOREFA_ROW(kernel)                                                                                   \
  {&kernel<float, numerics::Vec>, &kernel<Bf16, numerics::Vec>, &kernel<Half, numerics::Vec>, &kernel<double, numerics::Wide>}
#define TORCHQAT_DOREFA_KERNELS                                                                                       \
  {&dorefa_limits<numerics::Vec>, &dorefa_limits<numerics::Wide>, TORCHQAT_DOREFA_ROW(dorefa_forward),                \
   TORCHQAT_DOREFA_ROW(dorefa_backward), TORCHQAT_DOREFA_ROW(dorefa_at_limit)}
