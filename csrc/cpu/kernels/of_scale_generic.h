// Loops over elements whose formula wants their block's scale and nothing else. Included by ISA files.
#pragma once
#include "cpu/kernels/affine_generic.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

// Formula::of(x, scale) is one vector of results.
template <typename T, typename Formula>
struct OfScale {
  using In = T;
  using Out = T;
  using Args = AffineArgs;
  struct None {};
  static constexpr bool masks = false;
  template <typename V>
  static TORCHQAT_INLINE None grid(const Args&) {
    return {};
  }
  template <bool stream, typename V>
  static TORCHQAT_INLINE uint32_t apply(const In* in, Out* out, V scale, V, None) {
    const V y = Formula::of(V::load(in), scale);
    if constexpr (stream) {
      y.stream(out);
    } else {
      y.store(out);
    }
    return 0;
  }
};

// in, out, scale, blocks and stream of args only.
template <typename Formula, typename T, typename V>
TORCHQAT_INLINE void of_scale(const AffineArgs& a, int64_t begin, int64_t end) {
  using Op = OfScale<T, Formula>;
  a.stream ? affine_range<Op, V, false, true>(a, begin, end) : affine_range<Op, V, false, false>(a, begin, end);
}

}  // namespace torchqat::cpu
