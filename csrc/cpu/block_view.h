// From tensors to what the block kernels take: dense memory, Blocks, qparams in the compute type. CPU only.
#pragma once
#include "ops/torch_headers.h"

#include "cpu/isa.h"
#include "cpu/kernels/affine.h"
#include "cpu/kernels/range.h"
#include "cpu/pages.h"

namespace torchqat::cpu {

inline Float float_type(at::ScalarType type) {
  return type == at::kFloat ? Float::f32 : type == at::kBFloat16 ? Float::bf16 : type == at::kHalf ? Float::f16 : Float::f64;
}
inline Code code_type(at::ScalarType type) {
  return type == at::kChar ? Code::s8 : type == at::kByte ? Code::u8 : type == at::kShort ? Code::s16 : Code::s32;
}

inline const AffineKernels& affine_kernels() { return *select(&affine_scalar, &affine_avx2, &affine_avx512); }
inline const RangeKernels& range_kernels() { return *select(&range_scalar, &range_avx2, &range_avx512); }

// The tensor itself where its memory is dense in some order of the dimensions, else one copy.
at::Tensor dense(const at::Tensor& input);

// Block structure in the memory order of a dense tensor.
Blocks blocks_of(const at::Tensor& dense, at::IntArrayRef block_size);

// scale in the compute type and zero point in int32, contiguous; their values are checked.
struct QParamsView {
  at::Tensor scale, zero_point;
  const void* scale_data = nullptr;
  const int32_t* zero_point_data = nullptr;
};
QParamsView qparams_view(const char* op, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         at::ScalarType compute, int64_t quant_min, int64_t quant_max);

// Outputs from this size on are written past the cache: they would not stay in it.
constexpr int64_t stream_bytes = int64_t{8} << 20;

inline bool streams(const at::Tensor& out) {
  return out.nbytes() >= static_cast<size_t>(stream_bytes) && reinterpret_cast<uintptr_t>(out.const_data_ptr()) % 64 == 0;
}

// An output like x, in its memory order; large ones are wanted on huge pages.
inline at::Tensor output_like(const at::Tensor& x) {
  at::Tensor y = at::empty_like(x);
  prefer_huge_pages(y.mutable_data_ptr(), y.nbytes());
  return y;
}

// Elements handed to a thread at once.
constexpr int64_t grain = 64 * tile;

// work(begin, end) over [0, numel) in parallel; inner boundaries are multiples of tile.
template <typename Work>
void parallel_elements(int64_t numel, const Work& work) {
  const int64_t tiles = (numel + tile - 1) / tile;
  at::parallel_for(0, tiles, grain / tile,
                   [&](int64_t first, int64_t last) { work(first * tile, std::min(last * tile, numel)); });
}

// The finite range of every block of a dense tensor into lo and hi (scalar type S); returns how many values were not finite.
template <typename S>
int64_t block_ranges(const at::Tensor& dense, const Blocks& blocks, S* lo, S* hi);

// Ranges and qparams in one go.
int64_t block_qparams(const at::Tensor& dense, const Blocks& blocks, int64_t quant_min, int64_t quant_max, bool symmetric,
                      void* scale, int32_t* zero_point);

}  // namespace torchqat::cpu
