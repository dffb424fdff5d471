// Reading tensors that are cut out of larger ones (x[:, :k], x[::2], a part of the heads) where they lie: their rows are whole, only the
// way from one row to the next is not the dense one. CPU only.
#pragma once
#include "ops/torch_headers.h"

#include <ATen/ExpandUtils.h>

#include "cpu/block_view.h"

namespace torchqat::cpu {

// Elements are counted in the memory order of the result: the input's own where that is dense, else the logical one (inputs whose
// dimensions are permuted as well are not followed).
class RowReader {
 public:
  // Whether the input can be read where it lies. Rows are whole vectors and whole mask bytes, and long enough to pay.
  static bool follows(const at::Tensor& x) {
    if (x.is_non_overlapping_and_dense()) return true;
    return x.dim() >= 2 && x.dim() <= most_dims && x.numel() > 0 && x.stride(-1) == 1 && x.size(-1) % 16 == 0 && x.size(-1) >= 64 &&
           in_logical_order(x);
  }

  explicit RowReader(const at::Tensor& x)
      : data_(static_cast<const char*>(x.const_data_ptr())), element_(static_cast<int64_t>(x.element_size())),
        dense_(x.is_non_overlapping_and_dense()) {
    if (dense_) return;
    width_ = x.size(-1);
    outer_ = static_cast<int>(x.dim()) - 1;
    for (int d = 0; d < outer_; ++d) {
      size_[d] = x.size(d);
      stride_[d] = x.stride(d);
    }
  }

  // visit(in, from, to) for pieces of [begin, end): in is such that element i of the piece is in[i].
  template <typename Visit>
  void pieces(int64_t begin, int64_t end, const Visit& visit) const {
    if (dense_) {
      visit(static_cast<const void*>(data_), begin, end);
      return;
    }
    for (int64_t at = begin; at < end;) {
      const int64_t row = at / width_, stop = std::min(end, (row + 1) * width_);
      int64_t offset = -row * width_, rest = row;
      for (int d = outer_ - 1; d >= 0; --d) {
        offset += rest % size_[d] * stride_[d];
        rest /= size_[d];
      }
      visit(static_cast<const void*>(data_ + offset * element_), at, stop);
      at = stop;
    }
  }

 private:
  // Whether empty_like(x) is contiguous.
  static bool in_logical_order(const at::Tensor& x) {
    const auto strides = at::infer_dense_strides(x.sizes(), x.strides());
    int64_t expected = 1;
    for (int64_t d = x.dim() - 1; d >= 0; --d) {
      if (x.size(d) != 1 && strides[d] != expected) return false;
      expected *= x.size(d);
    }
    return true;
  }

  static constexpr int most_dims = 8;
  const char* data_;
  int64_t element_, width_ = 0;
  bool dense_;
  int outer_ = 0;
  int64_t size_[most_dims], stride_[most_dims];
};

// The tensor itself where RowReader follows it, else one copy.
inline at::Tensor readable(const at::Tensor& input) { return RowReader::follows(input) ? input : dense(input); }

}  // namespace torchqat::cpu
