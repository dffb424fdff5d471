// Two vectors are rounded to bfloat16 at once. The instruction takes subnormal numbers for zero; with a scale that
// SharedScale accepts no result is one. Runs that have no such scale go the way of affine_avx512.cpp.
#include "cpu/kernels/affine_bf16.h"

#include "cpu/kernels/affine_generic.h"

namespace torchqat::cpu {
namespace {

using numerics::Vec;
using Op = FakeQuantize<Bf16>;

template <bool masked, bool stream>
void run_pairs(const Bf16* in, Bf16* out, uint8_t* mask, int64_t n, const numerics::SharedScale& g, const Same<Vec>& p,
               const Grid<Vec>& grid) {
  constexpr int pair = 2 * Vec::size;
  const Vec reciprocal(g.reciprocal), low(g.low), high(g.high), margin(g.margin), zero(0.0f);
  for (int64_t i = 0; i < n; i += shared_step) {
    Vec nearest[shared_step / Vec::size], worst(0.0f);
#pragma GCC unroll 4
    for (int j = 0; j < shared_step / Vec::size; ++j) {
      nearest[j] = numerics::shared_nearest(Vec::load(in + i + j * Vec::size), reciprocal, worst);
    }
    if (numerics::mask_bits(in_range(worst, zero, margin)) != (1u << Vec::size) - 1u) [[unlikely]] {
      run_chunks<Op, Vec, masked, stream>(in + i, out + i, masked ? mask + i / 8 : nullptr, shared_step, p, grid);
      continue;
    }
#pragma GCC unroll 2
    for (int j = 0; j < shared_step / Vec::size; j += 2) {
      const Vec first = numerics::shared_value(numerics::clamp_level(nearest[j], low, high), p.scale);
      const Vec second = numerics::shared_value(numerics::clamp_level(nearest[j + 1], low, high), p.scale);
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v);
      auto* to = reinterpret_cast<__m512i*>(out + i + j / 2 * pair);
      if constexpr (stream) {
        _mm512_stream_si512(to, both);
      } else {
        _mm512_storeu_si512(to, both);
      }
      if constexpr (masked) {
        const uint32_t inside = numerics::mask_bits(in_range(nearest[j], low, high)) |
                                numerics::mask_bits(in_range(nearest[j + 1], low, high)) << Vec::size;
        std::memcpy(mask + (i + j / 2 * pair) / 8, &inside, sizeof(inside));
      }
    }
  }
}

template <bool masked, bool stream>
void run(const AffineArgs& a, int64_t begin, int64_t end) {
  const auto* in = static_cast<const Bf16*>(a.in);
  auto* out = static_cast<Bf16*>(a.out);
  const auto* scale = static_cast<const float*>(a.scale);
  const auto grid = Op::grid<Vec>(a);
  for_runs(*a.blocks, begin, end, [&](int64_t at, int64_t n, int64_t index) {
    const float z = a.zero_point ? static_cast<float>(a.zero_point[index]) : 0.0f;
    const numerics::SharedScale shared(scale[index], z, static_cast<float>(a.quant_min), static_cast<float>(a.quant_max));
    const Same<Vec> p{Vec(scale[index]), Vec(z)};
    const int64_t done = shared.fits ? n - n % shared_step : 0;
    uint8_t* bits = masked ? a.mask + at / 8 : nullptr;
    // A run begins at a multiple of 16 elements, half of what is streamed at once.
    if (stream && reinterpret_cast<uintptr_t>(out + at) % sizeof(__m512i) == 0) {
      run_pairs<masked, true>(in + at, out + at, bits, done, shared, p, grid);
    } else {
      run_pairs<masked, false>(in + at, out + at, bits, done, shared, p, grid);
    }
    if (done < n) run_chunks<Op, Vec, masked, stream>(in + at + done, out + at + done, masked ? bits + done / 8 : nullptr, n - done, p, grid);
  });
}

}  // namespace

void fake_quantize_bf16_avx512bf16(const AffineArgs& args, int64_t begin, int64_t end) {
  if (!args.blocks->aligned) {  // scales change inside a vector
    affine<Op, Vec>(args, begin, end);
    return;
  }
  if (args.mask != nullptr) {
    args.stream ? run<true, true>(args, begin, end) : run<true, false>(args, begin, end);
  } else {
    args.stream ? run<false, true>(args, begin, end) : run<false, false>(args, begin, end);
  }
}

}  // namespace torchqat::cpu
