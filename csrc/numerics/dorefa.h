// DoReFa's weights (Zhou 2016): tanh(x) over the largest |tanh| of the block, and its gradient, one element at a time. tanh is ours,
// so that every path and device rounds it alike; within 2 units in the last place. V is SIMD lanes or a lane of its own.
#pragma once
#include <limits>
#include <type_traits>

#include "numerics/bits.h"
#include "numerics/rounding.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// coefficients[0] x^n + coefficients[1] x^(n-1) + ...
template <typename V, int n>
TORCHQAT_INLINE V polynomial(V x, const typename V::Scalar (&coefficients)[n]) {
  V sum(coefficients[0]);
  for (int i = 1; i < n; ++i) sum = sum * x + V(coefficients[i]);
  return sum;
}

// For 0 <= y <= 40. Coefficients here and below: Cephes.
template <typename V>
TORCHQAT_INLINE V exponential(V y) {
  using S = typename V::Scalar;
  constexpr bool single = std::is_same_v<S, float>;
  const V n = round_even(y * V(S(1.44269504088896340736)));
  const V r = y - n * V(S(single ? 0.693359375 : 6.93145751953125e-1)) - n * V(S(single ? -2.12194440e-4 : 1.42860682030941723212e-6));
  const V square = r * r, one(S(1));
  V value;
  if constexpr (single) {
    constexpr float p[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    value = polynomial(r, p) * square + r + one;
  } else {
    constexpr double p[] = {1.26177193074810590878e-4, 3.02994407707441961300e-2, 9.99999999999999999910e-1};
    constexpr double q[] = {3.00198505138664455042e-6, 2.52448340349684104192e-3, 2.27265548208155028766e-1, 2.0};
    const V odd = r * polynomial(square, p);
    value = one + V(2.0) * (odd / (polynomial(square, q) - odd));
  }
  return value * power_of_two(n);
}

template <typename V>
TORCHQAT_INLINE V tanh_of(V x) {
  using S = typename V::Scalar;
  constexpr bool single = std::is_same_v<S, float>;
  const V one(S(1)), magnitude = lane_min(lane_abs(x), V(S(single ? 10 : 20)));  // 1 to the last place from there on
  const V square = magnitude * magnitude;
  V small;
  if constexpr (single) {
    constexpr float p[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f};
    small = polynomial(square, p) * square * magnitude + magnitude;
  } else {
    constexpr double p[] = {-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3};
    constexpr double q[] = {1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3};
    small = magnitude + magnitude * square * (polynomial(square, p) / polynomial(square, q));
  }
  const V large = one - V(S(2)) / (exponential(magnitude + magnitude) + one);
  const V value = with_sign(select(in_range(magnitude, V(S(0)), V(S(0.625))), small, large), x);
  return select(is_nan(x), x, value);
}

// What a block is divided by: tanh of the largest magnitude, 1 where everything is zero.
template <typename V>
TORCHQAT_INLINE V dorefa_limit(V largest) {
  using S = typename V::Scalar;
  const V limit = tanh_of(largest);
  return select(in_range(limit, V(std::numeric_limits<S>::denorm_min()), V(S(1))), limit, V(S(1)));
}

template <typename V>
TORCHQAT_INLINE V dorefa_weight(V x, V limit) {
  return tanh_of(x) / limit;
}

// Whether the block's limit is this element's |tanh|: then the gradient of the limit reaches it.
template <typename V>
TORCHQAT_INLINE auto is_at_limit(V tanh, V limit) {
  return in_range(lane_abs(tanh), limit, limit);
}

template <typename V>
struct DorefaTerms {
  V dx;       // dy * (1 - tanh(x)^2) / limit: the limit held
  V ds;       // dy * tanh(x); minus their sum, over the limit squared, is the limit's gradient
  V clipped;  // 1 where at the limit
};

// In the form of a learned scale's rule, so that one walk serves them all.
struct DorefaRule {
  template <typename V>
  static TORCHQAT_INLINE DorefaTerms<V> terms(V x, V dy, V limit, V, V, V) {
    using S = typename V::Scalar;
    const V one(S(1)), zero(S(0)), t = tanh_of(x);
    return {dy * ((one - t) * (one + t) / limit), select(is_nan(t), zero, dy * t), select(is_at_limit(t, limit), one, zero)};
  }
};

// What each of the `count` elements at the limit has of the limit's gradient. sum: of dy * tanh(x) over the block.
template <typename S>
TORCHQAT_INLINE S dorefa_share(double sum, double count, S limit) {
  const double wide = static_cast<double>(limit);
  return count > 0 ? static_cast<S>(sum / wide / count * ((1.0 - wide) * (1.0 + wide)) / wide) : S(0);
}

// No magnitude below this has the limit that `largest` has: tanh is as steep there as 1 - limit^2 at least, and off by a few places at most.
template <typename S>
TORCHQAT_INLINE S dorefa_threshold(S largest, S limit) {
  return largest - S(16) * std::numeric_limits<S>::epsilon() * limit / ((S(1) - limit) * (S(1) + limit));
}

template <typename V>
TORCHQAT_INLINE V dorefa_at_limit(V x, V dx, V limit, V share) {
  return select(is_at_limit(tanh_of(x), limit), dx - share * with_sign(V(typename V::Scalar(1)), x), dx);
}

}  // namespace torchqat::numerics
