// Lanes for the formulas that look at a float's bits: numerics/bits.h.
#pragma once
#include "cuda/kernels/lane.cuh"
#include "numerics/minifloat.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

template <typename S> TORCHQAT_INLINE Lane<S> exponent_power(Lane<S> x) { return exponent_power(x.v); }
template <typename S> TORCHQAT_INLINE Lane<S> with_sign(Lane<S> magnitude, Lane<S> x) { return with_sign(magnitude.v, x.v); }
template <typename S> TORCHQAT_INLINE Lane<S> power_of_two(Lane<S> n) { return power_of_two(n.v); }

}  // namespace torchqat::numerics
