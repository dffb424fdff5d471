// Grids of one to a few bits whose absmax scale would be useless: binary levels, and the candidates of the search for the
// scale with the least squared error. V is float, double or SIMD lanes.
#pragma once
#include "numerics/affine.h"
#include "numerics/qparams.h"

namespace torchqat::numerics::inline TORCHQAT_ISA_NAMESPACE {

// S is V's scalar type. XNOR-Net (Rastegari 2016): -s below zero, +s from zero on (both zeros); NaN stays NaN.
template <typename S, typename V>
TORCHQAT_INLINE V binary_value(V x, V scale, V zero) {
  const V level = select(in_range(x, zero, V(std::numeric_limits<S>::infinity())), scale, zero - scale);
  return select(is_nan(x), x, level);
}

// TWN (Li 2016) keeps what lies beyond this multiple of mean|x|.
inline constexpr double twn_threshold = 0.7;

// The search tries the range shrunk by 2^(-k/4), k = 0 .. coarse_steps - 1, then by 2^(k/32), 0 < |k| <= fine_steps, around
// the best; on affine grids then each end of the range by itself.
inline constexpr int coarse_steps = 24, fine_steps = 7;
inline constexpr double quarter_octave = 0.84089641525371454303, fine_octave = 0.97857206208770013451;

// At most this many least-squares steps s = sum x c / sum c c with the codes c of the scale before; each is taken only if
// the error falls, so the codes' own optimum is reached or approached from the best candidate.
inline constexpr int refinements = 8;

}  // namespace torchqat::numerics
