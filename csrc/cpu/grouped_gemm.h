// From tensors to the grouped linear kernels: packed weights opened, scales viewed, rows quantised into groups, work split
// among threads. Shared by the deployed and the training layers.
#pragma once
#include "cpu/layer_input.h"
#include "cpu/kernels/linear_grouped.h"

namespace torchqat {

struct GroupedWeight {
  cpu::GroupedLayout layout;
  const uint8_t* data = nullptr;
  bool is_signed = true;
  int64_t most = 128;  // no code is larger in magnitude
};

// bytes: codes [N, K] one byte each, contiguous and within their range. lasting: see make_packed.
at::Tensor pack_grouped(const at::Tensor& bytes, int64_t bits, int64_t group_size, bool lasting = false);
GroupedWeight read_grouped_weight(const char* op, const at::Tensor& packed_weight);

// A view of a scale in either form; `owner` keeps its memory.
struct GroupedScaleView {
  at::Tensor owner;
  cpu::GroupedScale scale;
};
GroupedScaleView view_weight_scale(const char* op, const at::Tensor& weight_scale, const cpu::GroupedLayout& w);
void check_scale_values(const char* op, const char* name, const at::Tensor& scale);

// Codes [rows, K padded to 64] of quantize_rows with every group at a multiple of group_padded; the same tensor where that
// is so already.
at::Tensor group_codes(const at::Tensor& codes, int64_t rows, const cpu::GroupedLayout& w);

// Memory of the calling thread, aligned to 64 and kept for its next call: fresh memory would cost page faults every time.
uint8_t* grouped_scratch(int64_t bytes);

// Calls fn on parts of rows x panels, each with scratch memory of its own.
template <typename Fn>
void for_each_grouped_block(int64_t rows, const cpu::GroupedLayout& w, int64_t scratch_bytes, const Fn& fn) {
  if (rows == 0 || w.panels == 0) return;
  const int64_t threads = at::get_num_threads();
  // Panels are what threads share; rows too, where there are few panels.
  const int64_t part = w.panels >= 4 * threads ? rows : std::min<int64_t>(rows, 64);
  const int64_t parts = (rows + part - 1) / part, items = parts * w.panels;
  // Below this many bytes of weights times rows a second thread costs more than it brings.
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 18) / std::max<int64_t>(1, part * w.panel_bytes));
  at::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
    uint8_t* scratch = grouped_scratch(scratch_bytes);
    for (int64_t item = begin; item < end;) {
      const int64_t i = item / w.panels * part, p = item % w.panels, count = std::min(w.panels - p, end - item);
      fn(cpu::GroupedRange{i, std::min(rows, i + part), p, p + count, scratch});
      item += count;
    }
  });
}

// y [sizes] of a deployed layer.
at::Tensor run_linear_grouped(const LayerInput& input, at::IntArrayRef sizes, const GroupedWeight& weight,
                              const cpu::GroupedScale& scale, const std::optional<at::Tensor>& bias, at::ScalarType dtype);

// y [rows, n] of dtype; x as quantize_rows gives it.
at::Tensor grouped_gemm(const QuantizedRows& x, int64_t rows, const InputQParams& qparams, const GroupedWeight& weight,
                        const cpu::GroupedScale& scale, const std::optional<at::Tensor>& bias, at::ScalarType dtype);

}  // namespace torchqat
