// Packing of convolution weights and the plan of a convolution. Plain integer work, compiled once.
#include "cpu/kernels/conv_plan.h"

#include "cpu/kernels/conv_int8.h"
#include "cpu/vec/transpose.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace torchqat::cpu::conv {
namespace {

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

WeightLayout weight_layout(int64_t groups, int64_t group_in, int64_t group_out, int spatial_dims, const Dims& kernel) {
  WeightLayout w;
  w.groups = groups;
  w.group_in = group_in;
  w.group_out = group_out;
  w.spatial_dims = spatial_dims;
  w.kernel = kernel;
  w.merge = std::clamp<int64_t>(16 / std::max<int64_t>(group_out, 1), 1, groups);
  if (w.merge * group_in * w.taps() > kSegmentMax) w.merge = 1;
  if (w.depthwise()) w.merge = groups;
  w.planes = ceil_div(groups, w.merge);
  w.plane_in = w.merge * group_in;
  w.plane_out = w.merge * group_out;
  w.panels = ceil_div(w.plane_out, kPanel);
  const int64_t k = (w.depthwise() ? 1 : w.plane_in) * w.taps(), rows = kernel[0] * kernel[1], row = kernel[2] * w.plane_in;
  w.patch = k > kSegmentMax || rows * round_up(row, 64) >= 2 * round_up(k, 64);
  w.runs = w.patch ? 1 : rows;
  w.run_len = w.patch ? k : row;
  w.run_pad = round_up(w.run_len, 64);
  w.chunks = ceil_div(k, kSegmentMax);
  return w;
}

int64_t WeightLayout::k_offset(int64_t z, int64_t y, int64_t x, int64_t channel) const {
  const int64_t row = z * kernel[1] + y, within = x * plane_in + channel;
  return patch ? row * kernel[2] * plane_in + within : row * run_pad + within;
}

namespace {

// Calls visit(byte offset in the panels, index into the canonical codes) for every weight.
template <typename Visit>
void for_each_weight(const WeightLayout& w, Visit visit) {
  int64_t code = 0;
  for (int64_t o = 0; o < w.out_channels(); ++o) {
    const int64_t group = o / w.group_out, plane = group / w.merge;
    const int64_t column = o - plane * w.plane_out, panel = column / kPanel, lane = column % kPanel;
    const int64_t base = (plane * w.panels + panel) * w.panel_bytes() + lane * 4;
    for (int64_t c = 0; c < w.group_in; ++c) {
      const int64_t channel = (group % w.merge) * w.group_in + c;
      for (int64_t z = 0; z < w.kernel[0]; ++z) {
        for (int64_t y = 0; y < w.kernel[1]; ++y) {
          for (int64_t x = 0; x < w.kernel[2]; ++x, ++code) {
            const int64_t k = w.k_offset(z, y, x, channel);
            visit(base + k / 4 * (4 * kPanel) + k % 4, code);
          }
        }
      }
    }
  }
}

}  // namespace

int32_t sum_codes(const int8_t* codes, int64_t n) {
  int64_t i = 0, sum = 0;
#if defined(__SSE2__)
  const __m128i sign = _mm_set1_epi8(-128), zero = _mm_setzero_si128();
  __m128i parts = zero;
  for (; i + 16 <= n; i += 16) {
    parts = _mm_add_epi64(parts, _mm_sad_epu8(_mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)), sign), zero));
  }
  int64_t halves[2];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(halves), parts);
  sum = halves[0] + halves[1] - 128 * i;
#endif
  for (; i < n; ++i) sum += codes[i];
  return static_cast<int32_t>(sum);
}

namespace {

// The columns of one panel as rows in order of K, [64][k_pad], and the sums of each over every chunk.
void gather_rows(const WeightLayout& w, const int8_t* codes, FilterOrder order, int64_t panel, int8_t* rows, int32_t* sums) {
  const int64_t taps = w.taps(), filter = w.group_in * taps, all = w.out_channels() * filter;
  std::vector<int64_t> tap_at;
  for (int64_t t = 0; t < taps; ++t) {
    tap_at.push_back(w.k_offset(t / (w.kernel[1] * w.kernel[2]), t / w.kernel[2] % w.kernel[1], t % w.kernel[2], 0));
  }
  std::memset(rows, 0, static_cast<size_t>(kPanel * w.k_pad()));
  const int64_t plane = panel / w.panels, column = panel % w.panels * kPanel;
  for (int64_t lane = 0; lane < std::min(kPanel, w.plane_out - column); ++lane) {
    const int64_t o = plane * w.plane_out + column + lane;
    if (o >= w.out_channels()) break;
    const int8_t* from = codes + o * filter;
    int8_t* to = rows + lane * w.k_pad() + o / w.group_out % w.merge * w.group_in;
    int64_t c = 0;
    uint8_t square[256];
    if (order == FilterOrder::channels_last) {
      for (int64_t t = 0; t < taps; ++t) std::memcpy(to + tap_at[static_cast<size_t>(t)], from + t * w.group_in, static_cast<size_t>(w.group_in));
      c = w.group_in;
    }
    // Squares read up to 16 codes past a channel's taps, so not at the very end.
    for (; c + 16 <= w.group_in && taps > 1 && o * filter + (c + 16) * taps + 16 <= all; c += 16) {
      for (int64_t t = 0; t < taps; t += 16) {
        numerics::transpose_bytes(reinterpret_cast<const uint8_t*>(from + c * taps + t), taps, square);
        for (int64_t j = 0; j < std::min<int64_t>(16, taps - t); ++j) {
          std::memcpy(to + tap_at[static_cast<size_t>(t + j)] + c, square + 16 * j, 16);
        }
      }
    }
    if (taps == 1) {
      std::memcpy(to, from, static_cast<size_t>(w.group_in));
    } else {
      for (; c < w.group_in; ++c) {
        for (int64_t t = 0; t < taps; ++t) to[tap_at[static_cast<size_t>(t)] + c] = from[c * taps + t];
      }
    }
    for (int64_t chunk = 0; chunk < w.chunks; ++chunk) {
      const int64_t first = chunk * kSegmentMax, end = w.chunks > 1 ? std::min(first + kSegmentMax, w.k_pad()) : w.k_pad();
      sums[chunk * kPanel + lane] = sum_codes(rows + lane * w.k_pad() + first, end - first);
    }
  }
}

}  // namespace

int64_t pack_units(const WeightLayout& w) { return w.depthwise() ? 1 : w.planes * w.panels; }

void pack_weight(const WeightLayout& w, const int8_t* codes, uint8_t* packed, FilterOrder order) {
  pack_weight_units(w, codes, order, 0, pack_units(w), packed);
}

void pack_weight_units(const WeightLayout& w, const int8_t* codes, FilterOrder order, int64_t begin, int64_t end, uint8_t* packed) {
  uint8_t* panels = packed + kHeaderBytes;
  auto* sums = reinterpret_cast<int32_t*>(panels + w.weight_bytes());
  if (w.depthwise()) {
    uint8_t* rows = panels + 4 * w.sum_count();
    std::memset(sums, 0, static_cast<size_t>(4 * w.sum_count()));
    for (int64_t c = 0; c < w.groups; ++c) {
      for (int64_t t = 0; t < w.taps(); ++t) {
        rows[t * w.groups + c] = static_cast<uint8_t>(codes[c * w.taps() + t]);
        sums[c] += codes[c * w.taps() + t];
      }
    }
    return;
  }
  std::vector<float> rows(static_cast<size_t>(kPanel * w.k_pad() / 4));  // moved four codes at a time
  for (int64_t at = begin; at < end; ++at) {
    std::memset(sums + at * w.chunks * kPanel, 0, static_cast<size_t>(4 * w.chunks * kPanel));
    gather_rows(w, codes, order, at, reinterpret_cast<int8_t*>(rows.data()), sums + at * w.chunks * kPanel);
    numerics::transpose_store(rows.data(), w.k_pad() / 4, kPanel, w.k_pad() / 4, reinterpret_cast<float*>(panels + at * w.panel_bytes()), kPanel);
  }
}

void unpack_weight(const WeightLayout& w, const uint8_t* packed, int8_t* codes) {
  if (w.depthwise()) {
    const int8_t* rows = packed_depthwise(w, packed);
    for (int64_t c = 0; c < w.groups; ++c) {
      for (int64_t t = 0; t < w.taps(); ++t) codes[c * w.taps() + t] = rows[t * w.groups + c];
    }
    return;
  }
  const int8_t* panels = packed_codes(packed);
  for_each_weight(w, [&](int64_t at, int64_t code) { codes[code] = panels[at]; });
}

Dims output_size(const Dims& in, const Dims& kernel, const Dims& stride, const Dims& padding, const Dims& dilation) {
  Dims out{};
  for (size_t d = 0; d < 3; ++d) {
    const int64_t room = in[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1;
    out[d] = room < 0 ? 0 : room / stride[d] + 1;
  }
  return out;
}

int64_t Plan::codes_bytes() const { return weight.planes * plane_bytes + 64 + 32 * row_stride + weight.run_pad; }

void Plan::share_among(int64_t threads) {
  if (threads < 2 || weight.depthwise() || strips == 0 || strips >= 8 * threads || line_len <= kStrip / 2) return;
  strip_len = kStrip / 2;
  const int64_t lines = strips / strips_per_line;
  strips_per_line = ceil_div(line_len, strip_len);
  strips = lines * strips_per_line;
}

Plan make_plan(const WeightLayout& weight, const Dims& in, const Dims& stride, const Dims& padding, const Dims& dilation,
               int64_t tile_rows, const Dims& extra, const Dims* out) {
  Plan p;
  p.weight = weight;
  p.in = in;
  p.stride = stride;
  p.padding = padding;
  p.dilation = dilation;
  p.extra = extra;
  Dims whole{};
  for (size_t d = 0; d < 3; ++d) {
    whole[d] = in[d] + extra[d];
    p.padded[d] = whole[d] + 2 * padding[d];
  }
  p.out = out != nullptr ? *out : output_size(whole, weight.kernel, stride, padding, dilation);
  const int64_t cs = weight.plane_in, wp = p.padded[2], ow = p.out[2];
  p.plane_bytes = p.padded[0] * p.padded[1] * wp * cs;

  const auto use = [&](int64_t length) {  // share of the tiles' rows that a line of this length fills
    return static_cast<double>(length) / static_cast<double>(round_up(std::max<int64_t>(length, 1), tile_rows));
  };
  const bool direct = !(dilation[2] > 1 && weight.kernel[2] > 1) && !(weight.patch && weight.kernel[0] * weight.kernel[1] > 1);
  const int64_t flat_len = (p.out[1] - 1) * wp + ow;
  const double line_use = use(ow);
  const double flat_use = stride[1] == 1 && stride[2] == 1
                              ? use(flat_len) * static_cast<double>(p.out[1] * ow) / static_cast<double>(std::max<int64_t>(flat_len, 1))
                              : 0.0;
  p.walk = weight.depthwise() ? Walk::lines : !direct || std::max(line_use, flat_use) < 0.55 ? Walk::gather : flat_use > line_use ? Walk::flat : Walk::lines;
  // Short lines leave too few independent sums in flight; whole rows of one pixel are better run together.
  if (p.walk == Walk::lines && ow < 3 && !weight.depthwise() && p.out_pixels() > ow) p.walk = flat_use > 0.6 ? Walk::flat : Walk::gather;

  switch (p.walk) {
    case Walk::lines: p.line_len = ow, p.lines_per_slice = p.out[1]; break;
    case Walk::flat: p.line_len = flat_len, p.lines_per_slice = 1; break;
    case Walk::gather: p.line_len = p.out_pixels(), p.lines_per_slice = 1; break;
  }
  p.strips_per_line = ceil_div(p.line_len, kStrip);
  p.strips = p.strips_per_line * p.lines_per_slice * (p.walk == Walk::gather ? 1 : p.out[0]);
  if (weight.depthwise()) {
    p.strips_per_line = 1;
    p.lines_per_slice = ceil_div(p.out[1], 2);
    p.strips = p.lines_per_slice * p.out[0];
  }
  if (p.out_pixels() == 0) p.strips = 0;
  p.row_stride = p.walk == Walk::gather ? weight.k_pad() : stride[2] * cs;

  const auto tap = [&](int64_t z, int64_t y, int64_t x) {
    return ((z * dilation[0] * p.padded[1] + y * dilation[1]) * wp + x * dilation[2]) * cs;
  };
  if (p.walk == Walk::gather) {
    const bool joined = dilation[2] == 1;  // neighbouring taps of a kernel row lie side by side
    for (int64_t z = 0; z < weight.kernel[0]; ++z) {
      for (int64_t y = 0; y < weight.kernel[1]; ++y) {
        for (int64_t x = 0; x < (joined ? 1 : weight.kernel[2]); ++x) {
          p.pieces.push_back({tap(z, y, x), weight.k_offset(z, y, x, 0), joined ? weight.kernel[2] * cs : cs});
        }
      }
    }
  }
  if (weight.depthwise()) {
    for (int64_t t = 0; t < weight.taps(); ++t) {
      p.taps.push_back(tap(t / (weight.kernel[1] * weight.kernel[2]), t / weight.kernel[2] % weight.kernel[1], t % weight.kernel[2]));
    }
  } else if (weight.chunks > 1) {
    for (int64_t k = 0; k < weight.run_len; k += kSegmentMax) {
      p.runs.push_back({k, k * kPanel, ceil_div(std::min(kSegmentMax, weight.run_len - k), 4)});
    }
  } else {
    for (int64_t r = 0; r < weight.runs; ++r) {
      const int64_t from = p.walk == Walk::gather || weight.patch ? r * weight.run_pad : tap(r / weight.kernel[1], r % weight.kernel[1], 0);
      p.runs.push_back({from, r * weight.run_pad * kPanel, ceil_div(weight.run_len, 4)});
    }
  }
  return p;
}

int64_t pad_scratch_bytes(const Plan& plan) {
  // Transposes read whole 16 x 16 squares; a pixel of all channels may end in a partial vector.
  return (plan.weight.in_channels() + 16) * kPixelBlock + 64 + 64 * 16;
}

int64_t strip_scratch_bytes(const Plan& plan) {
  const WeightLayout& w = plan.weight;
  return (2 * kStrip + 32) * kPanel * 4 + round_up(2 * plan.gather_bytes(), 64) + 4 * (w.sum_count() + (4 * kPanel + 1) * w.planes * w.panels);
}

}  // namespace torchqat::cpu::conv
