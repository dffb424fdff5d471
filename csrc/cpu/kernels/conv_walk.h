// How the kernels of a convolution walk a plan: where a pixel and its first tap lie in the padded planes, which pixels a strip
// holds, and how the taps of a pixel are copied side by side. Included by ISA files: everything has internal linkage.
#pragma once
#include <algorithm>
#include <cstdint>

#include "cpu/kernels/conv_plan.h"

namespace torchqat::cpu::conv {
namespace {

// Bytes from the start of a padded plane to pixel (z, y, x) of the input.
inline int64_t padded_at(const Plan& p, int64_t z, int64_t y, int64_t x) {
  return (((z + p.padding[0]) * p.padded[1] + y + p.padding[1]) * p.padded[2] + x + p.padding[2]) * p.weight.plane_in;
}

// Bytes from the start of a padded plane to the first tap of output pixel (z, y, x).
inline int64_t first_tap(const Plan& p, int64_t z, int64_t y, int64_t x) {
  return ((z * p.stride[0] * p.padded[1] + y * p.stride[1]) * p.padded[2] + x * p.stride[2]) * p.weight.plane_in;
}

// `rows` positions from position `start` of line `line` of slice `slice` (output depth) on; in a gathering walk both are 0.
struct Strip {
  int64_t slice, line, start, rows;
};

inline Strip strip_at(const Plan& p, int64_t strip) {
  const int64_t start = strip % p.strips_per_line * p.strip_len, line = strip / p.strips_per_line;
  return {line / p.lines_per_slice, line % p.lines_per_slice, start, std::min(p.strip_len, p.line_len - start)};
}

// Calls visit(first row of the strip, rows, first output pixel) for every run of positions that are output pixels.
template <typename Visit>
inline void for_each_pixel_run(const Plan& p, const Strip& s, Visit visit) {
  if (p.walk != Walk::flat || p.padded[2] == p.out[2]) {
    visit(0, s.rows, (s.slice * p.out[1] + s.line) * p.out[2] + s.start);
    return;
  }
  int64_t y = s.slice * p.out[1] + s.start / p.padded[2], x = s.start % p.padded[2];
  for (int64_t r = 0; r < s.rows; ++y, x = 0) {
    const int64_t to_row_end = std::min(s.rows - r, p.padded[2] - x);
    if (x < p.out[2]) visit(r, std::min(to_row_end, p.out[2] - x), y * p.out[2] + x);
    r += to_row_end;
  }
}

// The pieces of each pixel of a gathering strip, side by side, by copy(to, from, bytes). Sizes are copied first: bytes may alias
// everything else.
template <typename Copy>
inline void gather_pieces(const Plan& plan, const uint8_t* plane, const Strip& s, uint8_t* to, Copy copy) {
  const int64_t width = plan.out[2], height = plan.out[1], step = plan.stride[2] * plan.weight.plane_in, row_stride = plan.row_stride;
  const Piece* pieces = plan.pieces.data();
  const auto count = static_cast<int64_t>(plan.pieces.size());
  int64_t z = s.start / (height * width), y = s.start / width % height, x = s.start % width;
  for (int64_t rows = s.rows; rows > 0;) {
    const uint8_t* from = plane + first_tap(plan, z, y, x);
    const int64_t here = std::min(rows, width - x);
    for (int64_t r = 0; r < here; ++r, from += step, to += row_stride) {
      for (int64_t i = 0; i < count; ++i) copy(to + pieces[i].to, from + pieces[i].from, pieces[i].bytes);
    }
    rows -= here;
    x = 0;
    if (++y == height) y = 0, ++z;
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv
