// The loops of a depthwise convolution by interleaved taps. The file that includes it has defined Quad, zero_quad(), load_codes(p),
// interleave4, multiply_add(sums, codes, entry of the table) and store_sums.
#pragma once

namespace torchqat::cpu::conv {
namespace {

constexpr int64_t kMostQuads = 64;

// a, init and sums begin at the first channel. fill(slot, t0, t1, t2, t3) puts four taps' weights into the table, zeros for a tap
// below 0 or beyond the last.
template <typename Table, typename Fill>
TORCHQAT_INLINE void depthwise_by_quads(const Plan& plan, const uint8_t* a, int64_t rows, const int32_t* init, int32_t* sums,
                                        const Table& table, Fill fill) {
  const int64_t channels = plan.weight.groups, taps = static_cast<int64_t>(plan.taps.size()), kernel_rows = taps / 3;
  const int64_t* at = plan.taps.data();
  if (plan.weight.kernel[2] == 3 && plan.dilation[2] == 1 && plan.stride[2] == 1 && 2 * kernel_rows <= kMostQuads) {
    // Four neighbouring pixels serve two outputs: against (w0, w1, w2, 0) and (0, w0, w1, w2).
    for (int64_t k = 0; k < kernel_rows; ++k) {
      fill(2 * k, 3 * k, 3 * k + 1, 3 * k + 2, -1);
      fill(2 * k + 1, -1, 3 * k, 3 * k + 1, 3 * k + 2);
    }
    for (int64_t r = 0; r < rows; r += 2) {
      Quad left = zero_quad(), right = zero_quad();
      for (int64_t k = 0; k < kernel_rows; ++k) {
        const uint8_t* p = a + r * channels + at[3 * k];
        const Quad q =
            interleave4(load_codes(p), load_codes(p + channels), load_codes(p + 2 * channels), load_codes(p + 3 * channels));
        multiply_add(left, q, table[2 * k]);
        multiply_add(right, q, table[2 * k + 1]);
      }
      store_sums(left, init, sums + r * kPanel);
      store_sums(right, init, sums + (r + 1) * kPanel);  // sums have room for one row more
    }
    return;
  }
  // Taps in fours; a large kernel takes several rounds over the rows.
  for (int64_t first = 0; first < taps; first += 4 * kMostQuads) {
    const int64_t quads = std::min(kMostQuads, (taps - first + 3) / 4);
    for (int64_t q = 0; q < quads; ++q) {
      const int64_t t = first + 4 * q;
      fill(q, t, t + 1, t + 2, t + 3);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* p = a + r * plan.row_stride;
      Quad total = zero_quad();
      for (int64_t q = 0; q < quads; ++q) {
        const auto tap = [&](int64_t j) __attribute__((always_inline)) { return load_codes(p + at[std::min(first + 4 * q + j, taps - 1)]); };
        multiply_add(total, interleave4(tap(0), tap(1), tap(2), tap(3)), table[q]);
      }
      store_sums(total, first == 0 ? init : sums + r * kPanel, sums + r * kPanel);
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv
