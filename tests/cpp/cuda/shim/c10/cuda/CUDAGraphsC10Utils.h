// Stands in for c10/cuda/CUDAGraphsC10Utils.h: nothing is ever captured.
#pragma once

namespace c10::cuda {
enum class CaptureStatus { None };
inline CaptureStatus currentStreamCaptureStatusMayInitCtx() { return CaptureStatus::None; }
}  // namespace c10::cuda
