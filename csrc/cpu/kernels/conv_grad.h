// Gradients of an integer convolution with the output gradient as 16-bit integers in two 8-bit limbs.
//
//   dx = conv(limbs of dy * s_w, rotated weight codes)          the forward kernels; with a stride, one for each class of
//                                                               input pixels that meets the same taps
//   dw[tap] = sum over pixels of (q_x - z_x) * limb             a GEMM over pixels: codes channels-first, limbs in panels
//
// Each sample has a limb scale of its own, so its gradient does not depend on the rest of the batch.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels/conv_int8.h"

namespace torchqat::cpu::conv {

// The output gradient of one sample, dense, [pixels, channels] or [channels, pixels].
struct GradSource {
  const float* values = nullptr;
  bool channels_last = true;
  int64_t pixels = 0, channels = 0;
  const float* channel_scale = nullptr;  // [channels]: the weight scale, folded in
};

// A stretch of output rows whose pixels are one run of K.
struct Segment {
  int64_t slice = 0, row = 0, rows = 0;  // output depth, first row, rows
  int64_t k = 0;                         // offset in K; a multiple of 64
};

constexpr int64_t kCollected = 64;

struct WeightGradPlan {
  // Groups that share a plane of the forward make one block, whose products between different groups are computed and dropped.
  int64_t merge = 1, blocks = 1, block_in = 1, block_out = 1;
  // Panels of 64 columns: several whole blocks in each, or several panels for each block.
  int64_t in_panel = 1, block_panels = 1;
  Dims phases{1, 1, 1};  // = stride: padded pixels of equal phase lie together, so that strided taps are contiguous
  int64_t pitch = 1, plane = 1;  // of a phase: bytes of a row, and of the whole, rounded up
  int64_t row_stride = 1;        // from channel to channel
  int64_t slice_bytes = 1;       // of all channels of a padded depth slice
  int64_t k_total = 64;
  std::vector<Segment> segments;
  std::vector<int64_t> chunks;   // first segment of each int32 sum, and one past the last
  std::vector<Run> runs;         // [kernel depth][segments]: where codes and limbs of a segment lie
  std::vector<Run> steps;        // [k_total / 64]: 64 limbs each, against the same 64 codes

  int64_t codes_bytes(const Plan& forward) const { return forward.padded[0] * slice_bytes + 32 * row_stride + 128; }
  int64_t chunk_count() const { return static_cast<int64_t>(chunks.size()) - 1; }
  int64_t length(int64_t segment) const {
    const auto i = static_cast<size_t>(segment);
    return (i + 1 < segments.size() ? segments[i + 1].k : k_total) - segments[i].k;
  }
  int64_t panel_bytes() const { return k_total * kPanel; }
  int64_t panels() const { return in_panel > 1 ? (blocks + in_panel - 1) / in_panel : blocks * block_panels; }
  int64_t limb_bytes() const { return panels() * panel_bytes(); }
  // Output channels of a panel: the first one, and how many.
  int64_t panel_channel(int64_t panel) const {
    return in_panel > 1 ? panel * in_panel * block_out : panel / block_panels * block_out + panel % block_panels * kPanel;
  }
  int64_t panel_columns(const Plan& forward, int64_t panel) const {
    const int64_t columns = in_panel > 1 ? in_panel * block_out : block_out - panel % block_panels * kPanel;
    const int64_t left = forward.weight.out_channels() - panel_channel(panel);
    return columns < left ? (columns < kPanel ? columns : kPanel) : (left < kPanel ? left : kPanel);
  }
  // Units of work: panels x strips of input channels x taps.
  int64_t strip = kStrip;
  int64_t channel_strips() const { return (block_in + strip - 1) / strip; }
  // Shorter strips where the units are too few to be shared evenly.
  void share_among(const Plan& forward, int64_t threads);
  int64_t units(const Plan& forward) const { return forward.weight.taps() * panels() * channel_strips(); }
  // Units of collect: a panel's stretches of kCollected elements of the filters.
  int64_t collect_stretches(const Plan& forward) const {
    return merge > 1 ? 1 : (forward.weight.group_in * forward.weight.taps() + kCollected - 1) / kCollected;
  }
  int64_t collect_units(const Plan& forward) const { return panels() * collect_stretches(forward); }
  int64_t sums_size(const Plan& forward) const { return forward.weight.taps() * panels() * block_in * kPanel; }
};

WeightGradPlan make_weight_grad_plan(const Plan& forward);

// The input pixels phase, phase + stride, ...: a convolution of the padded output gradient with every so many taps.
struct InputGradClass {
  Dims phase{};
  std::vector<int64_t> taps[3];  // forward taps along each dimension, last one first
  Plan plan;                     // of all classes' shared padded limbs; out: the pixels of this class
  int64_t offset = 0;            // bytes from the padded limbs' start to the first tap
};

// The plan of dx. `possible` is false where the integer form does not serve.
struct InputGradPlan {
  bool possible = false;
  bool gaps = false;  // some pixels meet no tap: their gradient is 0
  Dims stride{1, 1, 1};
  Plan padded;        // how limbs are padded; only that
  std::vector<InputGradClass> classes;

  bool whole() const { return stride[0] * stride[1] * stride[2] == 1; }
  int64_t largest_class() const;  // pixels
};

// Weight codes int8 [out, in / groups, *kernel] -> those of a class, [in, out / groups, *taps], packed as pack_weight does.
void pack_class(const WeightLayout& forward, const InputGradClass& of, const int8_t* codes, FilterOrder order, uint8_t* packed);

// Pixels of a class, dense float [pixels, channels] or [channels, pixels], to their places in the input's gradient.
void scatter_class(const Plan& forward, const InputGradClass& of, const Dims& stride, bool channels_last, const float* from, float* to);

InputGradPlan make_input_grad_plan(const Plan& forward, int64_t tile_rows);

// What the GEMM for dw takes from one sample.
struct WeightGradTask {
  const uint8_t* codes = nullptr;            // from spread_codes
  const int8_t* limbs[2] = {};               // high, low: panels and column sums from panel_limbs
  const int32_t* limb_sums[2] = {};
  int32_t zero_point = 0;                    // as stored
  float scale = 1;                           // limb scale * input scale
  float* sums = nullptr;                     // [taps][panels][block_in][64], added to
  bool first = false;                        // nothing is in sums yet
};

struct GradKernels {
  // sums[c] += the values of channel c, without its scale, for channels [begin, end).
  void (*channel_sums)(const GradSource& source, int64_t begin, int64_t end, double* sums);
  // The largest |value * channel_scale|; NaN if there is one.
  float (*largest)(const GradSource& source);
  // Limbs + 128, in the source's order.
  void (*split)(const GradSource& source, float inverse, uint8_t* high, uint8_t* low);
  // Codes of a sample, dense, to channels-first phases with a border of zero points. Channels [16 * begin, 16 * end).
  void (*spread_codes)(const Plan& forward, const WeightGradPlan& plan, const Source& source, int64_t begin, int64_t end, uint8_t* codes);
  // Padded limbs (from pad_rows of the dx plan) to panels [begin, end) of [panels][k / 4][64][4], and the sums of their
  // columns, [panels][chunks][64].
  void (*panel_limbs)(const Plan& forward, const Plan& input_grad, const WeightGradPlan& plan, const uint8_t* padded, int64_t begin, int64_t end,
                      int8_t* panels, int32_t* sums);
  // Units [begin, end) of collect_units: sums [taps][panels][block_in][64] / scale -> [out, in / groups, *kernel].
  void (*collect)(const Plan& forward, const WeightGradPlan& plan, const float* sums, const float* scale, FilterOrder order, int64_t begin,
                  int64_t end, float* grad_weight);
  void (*weight_grad)(const Plan& forward, const WeightGradPlan& plan, const WeightGradTask& task, int64_t begin, int64_t end, uint8_t* scratch);
};

int64_t weight_grad_scratch_bytes();

GradKernels grad_kernels_scalar();
GradKernels grad_kernels_avx2();
GradKernels grad_kernels_avxvnni();
GradKernels grad_kernels_avx512();
GradKernels grad_kernels_amx();

}  // namespace torchqat::cpu::conv
