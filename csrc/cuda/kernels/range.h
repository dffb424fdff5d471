// Statistics on the device: the finite range of each block in two levels (partial ranges of chunks, then one pass over the
// chunks), and scale and zero point from it. No torch, no float atomics, no word back to the host.
#pragma once
#include "cuda/kernels/affine.h"

namespace torchqat::cuda {

// How the elements of a tensor are divided: `group` threads reduce one chunk of one block.
struct RangePlan {
  int group = 1;
  int64_t chunks = 1;
  int64_t per_chunk = 0;  // elements, a multiple of 8
};
RangePlan plan_range(const Blocks& blocks);
// Eight elements that follow one another in a block, from a multiple of eight on, lie together in memory.
bool rows_of_packets(const Blocks& blocks);

// lo, hi: float (double for f64), [chunks][scales]; skipped: int32, [chunks][scales], how many elements were not finite, or nullptr.
struct RangeParts {
  void *lo, *hi;
  int32_t* skipped;
};

void min_max(const Blocks& blocks, const RangePlan& plan, const void* in, Float type, const RangeParts& parts, Stream stream);

struct RangeFinish {
  int64_t scales, chunks;
  RangeParts parts;
  void *running_lo, *running_hi;  // [scales], merged and written; or nullptr: the range of this tensor alone
  double averaging;
  bool fresh;                     // the running range is written, whatever it held
  int64_t* nonfinite;             // one element, added to; or nullptr
  int32_t quant_min, quant_max;
  bool symmetric;
  void* scale;                    // [scales], or nullptr: the range alone is wanted
  int32_t* zero_point;            // [scales]
  void* zero_point_value;         // [scales], the same in the scale's type, for the kernel that follows; or nullptr
};

// wide: float64.
void finish_range(const RangeFinish& args, bool wide, Stream stream);

}  // namespace torchqat::cuda
