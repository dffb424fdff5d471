// Lanes for the float grids of numerics/minifloat.h.
#pragma once
#include "cuda/kernels/lane.cuh"
#include "numerics/minifloat.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

template <typename S> TORCHQAT_INLINE Lane<S> exponent_power(Lane<S> x) { return exponent_power(x.v); }
template <typename S> TORCHQAT_INLINE Lane<S> with_sign(Lane<S> magnitude, Lane<S> x) { return with_sign(magnitude.v, x.v); }

}  // namespace torchqat::numerics
