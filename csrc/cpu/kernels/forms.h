// Integer forms of operations without weights, on spans and pixels: contract of the kernels of each instruction set.
//
//   value of a code: (q - z) * s;  of a float: that of its code, NaN for NaN
//   add:     y = value(a) + value(b), one rounding        average: y = sum(q - z) * (s / count)
//   codes of a result: clamp(rint(y / scale) + zero_point), of max(y, 0) if relu; NaN becomes the zero point
#pragma once
#include <cstdint>

namespace torchqat::cpu::forms {

enum class Element : int { float32, u8, s8 };

// An integer grid; zero point and limits are integers.
struct Grid {
  float scale = 1, zero_point = 0, quant_min = 0, quant_max = 255;
};

struct Add {
  const void* a = nullptr;
  const void* b = nullptr;
  Element a_type = Element::u8, b_type = Element::u8, out_type = Element::float32;
  Grid a_grid, b_grid, out_grid;
  bool relu = false;
  void* out = nullptr;
};

// `taps` pixels of `channels` elements each, at offsets (in elements) from input, into one pixel of out.
struct Window {
  const void* input = nullptr;
  const int64_t* offsets = nullptr;
  int64_t taps = 0, channels = 0;
  void* out = nullptr;
};

struct Average {
  Element type = Element::u8, out_type = Element::float32;
  Grid grid, out_grid;
  float count = 1;
};

struct Lookup {
  const void* input = nullptr;
  Element type = Element::u8;
  Grid grid;
  const void* table = nullptr;  // [quant_max - quant_min + 1] of out_type
  Element out_type = Element::u8;
  void* out = nullptr;
};

struct Kernels {
  void (*add)(const Add& task, int64_t begin, int64_t end);
  void (*average)(const Average& task, const Window& window);
  // The largest code of each channel; `taps` is at least 1.
  void (*maximum)(const Window& window, bool is_signed);
  void (*lookup)(const Lookup& task, int64_t begin, int64_t end);
};

Kernels kernels_scalar();
Kernels kernels_avx2();
Kernels kernels_avx512();
Kernels kernels_avx512vbmi();

}  // namespace torchqat::cpu::forms
