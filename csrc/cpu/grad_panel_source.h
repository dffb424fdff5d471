// Where the backward products' panels come from: made from what the forward left, a few at a time, in memory cut from one
// allocation.
#pragma once
#include <functional>

#include "cpu/grad_gemm.h"
#include "cpu/isa.h"
#include "cpu/kernels/gemm_groups.h"
#include "cpu/kernels/grad_bf16.h"
#include "cpu/kernels/grad_panels.h"
#include "cpu/kernels/panels.h"
#include "cpu/output.h"

namespace torchqat {

template <typename T>
T* data(const at::Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// One allocation cut into parts: on a small layer each allocation of its own costs as much as a pass over the data.
class Scratch {
 public:
  static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

  explicit Scratch(int64_t bytes) : memory_(cpu::result_bytes(bytes + 64)), at_(data<uint8_t>(memory_)) {
    at_ += (64 - reinterpret_cast<uintptr_t>(at_) % 64) % 64;
  }
  template <typename T>
  T* take(int64_t count) {
    auto* part = reinterpret_cast<T*>(at_);
    at_ += padded(count * static_cast<int64_t>(sizeof(T)));
    return part;
  }
  // What was taken after the mark is given back.
  uint8_t* mark() const { return at_; }
  void rewind(uint8_t* mark) { at_ = mark; }

 private:
  at::Tensor memory_;
  uint8_t* at_;
};

// Panels over the reduction, `lines` of it padded to 64, made a few at a time and used while they lie in the cache: of the
// weight's q + 128 by lines of n, or of the input's codes by lines of m: bytes, or bfloat16 made from the bytes. Or blocks
// of a weight in groups.
class PanelSource {
 public:
  static PanelSource weights(const GradProblem& p) {
    const auto kernel = cpu::select<cpu::WeightToPanelsFn>(cpu::weight_to_panels_scalar, cpu::weight_to_panels_avx2,
                                                           cpu::weight_to_panels_avx512);
    PanelSource s(p.k, p.n);
    // The kernel counts panels from its output's first.
    s.fill_ = [&p, kernel](uint8_t* out, int64_t begin, int64_t end) {
      kernel(p.weight.panels, p.n, p.k, out - begin * 64 * cpu::padded64(p.n), begin, end);
    };
    s.zero_point_ = 128;
    s.zero_count_ = s.lines;
    return s;
  }
  static PanelSource codes(const GradProblem& p) {
    const auto kernel = cpu::select<cpu::CodesToPanelsFn>(cpu::codes_to_panels_scalar, cpu::codes_to_panels_avx2,
                                                          cpu::codes_to_panels_avx512);
    PanelSource s(p.k, p.m);
    s.fill_ = [&p, kernel](uint8_t* out, int64_t begin, int64_t end) {
      kernel(p.codes.const_data_ptr<uint8_t>(), p.m, cpu::padded64(p.k), p.k, out - begin * 64 * cpu::padded64(p.m), begin,
             end);
    };
    const int32_t* zero_point = p.qparams->zero_point.const_data_ptr<int32_t>();
    if (p.qparams->stride == 1) s.zero_points_ = zero_point;
    s.zero_point_ = zero_point[0];
    s.zero_count_ = p.m;
    return s;
  }
  static PanelSource groups(const cpu::GroupedCodes& weight) {
    const auto kernel =
        cpu::select<cpu::CodesToBlocksFn>(cpu::codes_to_blocks_scalar, cpu::codes_to_blocks_avx2, cpu::codes_to_blocks_avx512);
    // A block of 32 columns of 16 bits is as large as a panel of 64 bytes.
    PanelSource s(64 * weight.blocks(), weight.n);
    s.fill_ = [weight, kernel](uint8_t* out, int64_t begin, int64_t end) {
      kernel(weight, reinterpret_cast<int16_t*>(out), begin, end);
    };
    return s;
  }
  PanelSource as_bf16() && {
    bf16_ = true;
    return std::move(*this);
  }

  int64_t count, lines;

  // Of one panel; and how many are made at a time.
  int64_t panel_bytes() const { return (bf16_ ? 2 : 1) * 64 * lines; }
  int64_t at_a_time() const { return std::clamp<int64_t>(chunk_bytes_ / panel_bytes(), 1, count); }
  // With few rows beside them panels need not wait for one another, and take the place of less in the cache.
  PanelSource for_rows(int64_t rows) && {
    if (rows <= 64) chunk_bytes_ = kChunkBytes / 16;
    return std::move(*this);
  }
  // What `parts` threads need, each at_a_time panels and their bytes if those are not the panels.
  int64_t scratch_bytes(int64_t parts) const { return parts * part_bytes(at_a_time()); }
  int64_t part_bytes(int64_t panels) const { return Scratch::padded(panels * (bf16_ ? 3 : 1) * 64 * lines); }

  // Panels [begin, end) into the part.
  const uint8_t* make(uint8_t* part, int64_t begin, int64_t end) const {
    if (!bf16_) {
      fill_(part, begin, end);
      return part;
    }
    uint8_t* bytes = part + (end - begin) * panel_bytes();
    fill_(bytes, begin, end);
    cpu::panels_to_bf16(bytes, lines, zero_count_, zero_points_, zero_point_, reinterpret_cast<uint16_t*>(part), 0, end - begin);
    return part;
  }

 private:
  static constexpr int64_t kChunkBytes = 1 << 20;
  PanelSource(int64_t columns, int64_t reduction) : count(cpu::padded64(columns) / 64), lines(cpu::padded64(reduction)) {}

  std::function<void(uint8_t*, int64_t, int64_t)> fill_;
  bool bf16_ = false;
  int64_t chunk_bytes_ = kChunkBytes;
  const int32_t* zero_points_ = nullptr;
  int32_t zero_point_ = 0;
  int64_t zero_count_ = 0;
};

}  // namespace torchqat
