// What the CPU wrappers of the integer convolutions share: tensors to plans, parameters to floats, the threaded run.
#pragma once
#include "cpu/kernels/conv_int8.h"
#include "ops/conv_int8.h"

namespace torchqat::cpu::conv {

Kernels current_kernels();

// Scratch of this thread, kept between calls: a fresh one would cost page faults every time. Slot 0 belongs to kernels, slot
// 1 to a call's buffers.
uint8_t* thread_scratch(int slot, int64_t bytes);

// Values of the quantisation parameters, one or one for each sample, checked.
struct InputQparams {
  std::vector<float> scale, zero_point;
  float scale_of(int64_t sample) const { return scale.size() == 1 ? scale[0] : scale[static_cast<size_t>(sample)]; }
  float zero_point_of(int64_t sample) const {
    return zero_point.size() == 1 ? zero_point[0] : zero_point[static_cast<size_t>(sample)];
  }
};
InputQparams input_qparams(const ConvArgs& args, const at::Tensor& scale, const at::Tensor& zero_point);

// float32 [n], every entry finite and > 0.
at::Tensor checked_scale(const char* op, const char* name, const at::Tensor& scale);

// Learned parameters: a floating zero point is rounded and clamped, a scale at least the smallest normal number.
at::Tensor rounded_zero_point(const at::Tensor& zero_point, int64_t low, int64_t high);
at::Tensor positive_scale(const at::Tensor& scale);

// float32 [n] of one scale or n.
at::Tensor channel_scales(const at::Tensor& scale, int64_t n);

Dims dims_of(at::IntArrayRef list, int64_t fill);

// Of codes [out, in / groups, *kernel], dense in one of the two formats.
inline FilterOrder filter_order(const at::Tensor& weight_codes) {
  return weight_codes.suggest_memory_format() == at::MemoryFormat::Contiguous ? FilterOrder::channels_first : FilterOrder::channels_last;
}

// Input [N, C, *spatial] as the kernels read it: float32 or codes, dense, channels last or first.
struct BatchInput {
  const float* values = nullptr;
  const uint8_t* codes = nullptr;
  int64_t samples = 0, sample_size = 0;
  bool channels_last = false;
  bool flip = false;              // codes are two's complement
  uint8_t* kept_codes = nullptr;  // [samples, sample_size] and [samples, ceil(sample_size / 8)]: filled for backward
  uint8_t* kept_mask = nullptr;
};

// Where the results go, dense [N, out, *spatial] in the memory format of the input: float32, or codes of a grid.
struct BatchOutput {
  float* values = nullptr;
  uint8_t* codes = nullptr;
  OutputGrid grid;
};

// Runs the whole batch.
void run_batch(const Plan& plan, const ConvArgs& args, const BatchInput& input, const InputQparams& qparams,
               const uint8_t* packed, const at::Tensor& weight_scale, const at::Tensor& bias, const BatchOutput& out);

WeightLayout layout_of(const char* op, const at::Tensor& packed_weight);

}  // namespace torchqat::cpu::conv
