// From CUDA tensors to what the kernels take: the device and stream of a call, qparams in the compute type. Nothing here reads a
// value back from the device.
#pragma once
#include "ops/torch_headers.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cpu/block_view.h"
#include "cuda/kernels/affine.h"

namespace torchqat::cuda {

using cpu::blocks_of;
using cpu::code_type;
using cpu::dense;
using cpu::float_type;

// Makes the tensor's device current for a scope, and gives the stream that torch would use.
class OnDevice {
 public:
  explicit OnDevice(const at::Tensor& tensor) : guard_(tensor.device()), stream_(c10::cuda::getCurrentCUDAStream()) {}
  Stream stream() const { return stream_; }

 private:
  c10::cuda::CUDAGuard guard_;
  Stream stream_;
};

inline at::Tensor in_type(const at::Tensor& tensor, at::ScalarType type) { return tensor.to(type).contiguous(); }

// One bit per element, in memory order.
inline at::Tensor empty_mask(const at::Tensor& dense) {
  return at::empty({(dense.numel() + 7) / 8}, dense.options().dtype(at::kByte));
}

// Scale and zero point in the compute type; the zero point may be absent.
struct QParamsView {
  at::Tensor scale, zero_point;
  QParamsView(const at::Tensor& s, const std::optional<at::Tensor>& z, at::ScalarType compute)
      : scale(in_type(s, compute)), zero_point(z.has_value() ? in_type(*z, compute) : at::Tensor()) {}
  const void* scale_data() const { return scale.const_data_ptr(); }
  const void* zero_point_data() const { return zero_point.defined() ? zero_point.const_data_ptr() : nullptr; }
};

}  // namespace torchqat::cuda
