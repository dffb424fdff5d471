// Geometry of an integer convolution: how its weights are packed, where a kernel tap lies in the padded codes, and how
// output pixels are grouped into strips. No torch, no instruction set. Spatial sizes are always (depth, height, width);
// missing leading dimensions are 1.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace torchqat::cpu::conv {

using Dims = std::array<int64_t, 3>;

constexpr int64_t kPanel = 64;          // output channels of a weight panel
constexpr int64_t kSegmentMax = 65536;  // longest int32 sum of the contract
constexpr int64_t kStrip = 128;         // output pixels worked on at a time
constexpr int64_t kHeaderBytes = 64;  // of any packed weight

// Weights of every group, in what order they are packed. Small groups are merged into one block-diagonal plane of up to
struct WeightLayout {
  int64_t groups = 1, group_in = 1, group_out = 1;
  int spatial_dims = 2;
  Dims kernel{1, 1, 1};

  int64_t merge = 1;         // groups in a plane
  int64_t planes = 1;        // ceil(groups / merge)
  int64_t plane_in = 1;      // merge * group_in
  int64_t plane_out = 1;     // merge * group_out
  int64_t panels = 1;        // ceil(plane_out / kPanel)
  bool patch = false;        // K is one run (z, y, x, channel); otherwise one run (x, channel) for each (z, y)
  int64_t runs = 1;          // runs of K, each padded to a multiple of 64
  int64_t run_len = 1;       // true length
  int64_t run_pad = 64;
  int64_t chunks = 1;        // int32 sums that are added in float: more than one beyond kSegmentMax

  // One input channel for one output channel: no panels, the codes of all channels lie in one plane.
  bool depthwise() const { return group_in == 1 && group_out == 1 && groups > 1 && taps() <= kSegmentMax; }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t in_channels() const { return groups * group_in; }
  int64_t out_channels() const { return groups * group_out; }
  int64_t k_pad() const { return runs * run_pad; }
  int64_t panel_bytes() const { return k_pad() * kPanel; }
  int64_t weight_bytes() const { return depthwise() ? 0 : planes * panels * panel_bytes(); }
  int64_t sum_count() const { return planes * panels * chunks * kPanel; }
  int64_t depthwise_bytes() const { return depthwise() ? taps() * groups : 0; }
  int64_t packed_bytes() const { return kHeaderBytes + weight_bytes() + 4 * sum_count() + depthwise_bytes(); }
  // Offset of code (tap, channel) inside the K axis of a panel.
  int64_t k_offset(int64_t z, int64_t y, int64_t x, int64_t channel) const;
};

WeightLayout weight_layout(int64_t groups, int64_t group_in, int64_t group_out, int spatial_dims, const Dims& kernel);

// How the codes of an output channel lie in memory: [group_in, *kernel], or with the channels last.
enum class FilterOrder { channels_first, channels_last };

// Codes from one input channel to the next, and from one tap to the next.
struct FilterSteps {
  int64_t channel, tap;
  FilterSteps(const WeightLayout& w, FilterOrder order)
      : channel(order == FilterOrder::channels_last ? 1 : w.taps()), tap(order == FilterOrder::channels_last ? w.group_in : 1) {}
};

// codes int8 [groups * group_out, group_in, *kernel] <-> the packed form:
//   header (the caller's) | int8 [planes][panels][k_pad / 4][64][4] | int32 sums over K [planes][panels][chunks][64] |
//   depthwise: int8 codes [taps][groups]
void pack_weight(const WeightLayout& layout, const int8_t* codes, uint8_t* packed, FilterOrder order = FilterOrder::channels_first);
// Its units [begin, end) of pack_units, each on its own.
int64_t pack_units(const WeightLayout& layout);
void pack_weight_units(const WeightLayout& layout, const int8_t* codes, FilterOrder order, int64_t begin, int64_t end, uint8_t* packed);
// Sum of n codes.
int32_t sum_codes(const int8_t* codes, int64_t n);
void unpack_weight(const WeightLayout& layout, const uint8_t* packed, int8_t* codes);

inline const int8_t* packed_codes(const uint8_t* packed) {
  return reinterpret_cast<const int8_t*>(packed + kHeaderBytes);
}
inline const int32_t* packed_sums(const WeightLayout& w, const uint8_t* packed) {
  return reinterpret_cast<const int32_t*>(packed + kHeaderBytes + w.weight_bytes());
}
inline const int8_t* packed_depthwise(const WeightLayout& w, const uint8_t* packed) {
  return reinterpret_cast<const int8_t*>(packed + kHeaderBytes + w.weight_bytes() + 4 * w.sum_count());
}

// A run of K: `groups` groups of four bytes, at `a` bytes from a pixel's row of codes and `w` bytes into the panel.
struct Run {
  int64_t a = 0;
  int64_t w = 0;
  int64_t groups = 0;
};

// What a gathering strip copies for a pixel: `bytes` from `from` (relative to the pixel's first tap) to `to`.
struct Piece {
  int64_t from = 0;
  int64_t to = 0;
  int64_t bytes = 0;
};

enum class Walk : int {
  lines,   // strips lie within an output row
  flat,    // strips run over row ends (stride 1): the pixels between rows are computed and dropped
  gather,  // the taps of each pixel are first copied side by side
};

struct Plan {
  WeightLayout weight;
  Dims in{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0}, dilation{1, 1, 1}, out{1, 1, 1};
  Dims extra{0, 0, 0};   // border at the end beyond padding; below zero where it is less
  Dims padded{1, 1, 1};  // in + extra + 2 * padding
  Walk walk = Walk::lines;
  int64_t line_len = 1, lines_per_slice = 1, strips_per_line = 1;
  int64_t strip_len = kStrip;  // at most kStrip
  int64_t strips = 1;       // of one sample; a depthwise strip is two whole lines
  int64_t row_stride = 1;   // bytes between the codes of neighbouring positions of a strip
  int64_t plane_bytes = 1;  // padded codes of one plane
  std::vector<Run> runs;    // with several chunks, chunk c owns run c
  std::vector<Piece> pieces;
  std::vector<int64_t> taps;  // depthwise: where each tap lies, relative to the first

  int64_t in_pixels() const { return in[0] * in[1] * in[2]; }
  int64_t out_pixels() const { return out[0] * out[1] * out[2]; }
  // Shorter strips where a sample's are too few to be shared evenly.
  void share_among(int64_t threads);
  // Padded codes of one sample, with room for what full tiles read beyond the last pixel.
  int64_t codes_bytes() const;
  int64_t gather_bytes() const { return walk == Walk::gather ? (kStrip + 16) * weight.k_pad() + 64 : 0; }
};

// tile_rows: how many pixels a kernel tile takes at least (16 for AMX, where shorter lines waste the tile). out: what is
// wanted where that is less than the padded input gives.
Plan make_plan(const WeightLayout& weight, const Dims& in, const Dims& stride, const Dims& padding, const Dims& dilation,
               int64_t tile_rows, const Dims& extra = {0, 0, 0}, const Dims* out = nullptr);

// out sizes; negative or zero where the kernel does not fit.
Dims output_size(const Dims& in, const Dims& kernel, const Dims& stride, const Dims& padding, const Dims& dilation);

}  // namespace torchqat::cpu::conv
