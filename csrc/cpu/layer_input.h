// The input of a deployed integer layer on its way to the kernel: rows of floats, quantised on a given grid or on the grid of
// each row's own range, or rows of codes. What is small or short-lived lies in memory of the calling thread: a layer of one
// row takes a few microseconds, and an allocation or a call through the dispatcher is a good part of one.
#pragma once
#include "cpu/int8_gemm.h"

namespace torchqat {

// float32 values in a row; `owner` keeps a copy's memory.
struct FloatView {
  at::Tensor owner;
  const float* data = nullptr;
};
FloatView view_floats(const std::optional<at::Tensor>& values);
// Each checked to be finite and > 0.
FloatView view_scale(const char* op, const char* name, const at::Tensor& scale);

// choose_qparams of all of input.
std::tuple<at::Tensor, at::Tensor> whole_tensor_qparams(const at::Tensor& input, int64_t quant_min, int64_t quant_max,
                                                        bool symmetric);

// True if `count` values are finite and > 0.
bool all_positive(const float* values, int64_t count);

// Memory of the calling thread, aligned to 64 and kept for its next call; for much, memory of its own.
class RowMemory {
 public:
  explicit RowMemory(int64_t bytes);
  uint8_t* data() const { return data_; }

 private:
  at::Tensor own_;
  uint8_t* data_ = nullptr;
};

class LayerInput {
 public:
  LayerInput(const LayerInput&) = delete;
  LayerInput& operator=(const LayerInput&) = delete;
  // Floats [..., k] on one grid, or one per row; or codes of the one grid.
  LayerInput(const char* op, const at::Tensor& input, int64_t k, const at::Tensor& scale, const at::Tensor& zero_point,
             int64_t quant_min, int64_t quant_max);
  // Floats, each row on the grid of its own range.
  LayerInput(const at::Tensor& input, int64_t k, int64_t quant_min, int64_t quant_max, bool symmetric);

  int64_t rows() const { return rows_; }
  int64_t stride() const { return found_ ? 1 : stride_; }

  // Bytes that code() wants for so many rows.
  int64_t bytes(int64_t rows) const;
  // Codes of rows [begin, end) with all that belongs to them, in memory of bytes(end - begin).
  struct Rows {
    const uint8_t* codes;  // stored form, k padded to 64 apart
    const float* scale;    // stride() apart
    const int32_t* zero_point;
    const uint8_t* nan;    // absent where the input was codes
  };
  Rows code(int64_t begin, int64_t end, uint8_t* memory, bool parallel) const;

 private:
  void open(const at::Tensor& input, int64_t k, int64_t quant_min, int64_t quant_max);
  void take_codes(int64_t begin, int64_t end, uint8_t* out) const;

  at::Tensor input_;
  const void* data_ = nullptr;
  cpu::FloatType type_ = cpu::FloatType::float32;
  bool is_codes_ = false, is_signed_ = false, found_ = false, symmetric_ = false;
  int64_t rows_ = 0, k_ = 0, k_padded_ = 0, stride_ = 0, shift_ = 0, quant_min_ = 0, quant_max_ = 255;
  InputQParams given_;  // where the grid is not just one float32 scale and one int32 zero point
  float one_scale_ = 1;
  int32_t one_zero_point_ = 0;
  const float* scale_ = nullptr;
  const int32_t* zero_point_ = nullptr;
};

// The grid of a next layer, in stored (u8) form; relu is applied to y first.
struct CodesGrid {
  float scale = 1, zero_point = 0, quant_min = 0, quant_max = 255;
  bool relu = false;
};

// y [sizes] of dtype, of a layer on int8 weights; with a grid its codes in stored form, uint8.
at::Tensor run_linear_int8(const LayerInput& input, at::IntArrayRef sizes, const Int8Weight& weight, const float* weight_scale,
                       const std::optional<at::Tensor>& bias, at::ScalarType dtype, const CodesGrid* grid = nullptr);

}  // namespace torchqat
