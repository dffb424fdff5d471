// Division of the work, and the instances of the range kernels.
#include "cuda/kernels/range.cuh"

#include <algorithm>

namespace torchqat::cuda {
namespace {

// One group of threads should have at least this much to do before a block is divided among several.
constexpr int64_t elements_per_thread = 64;
constexpr int64_t most_chunks = 1024;

int64_t largest_block(const Blocks& b) {
  int64_t count = 1;
  for (int d = 0; d < b.dims; ++d) count *= std::min(b.block[d], b.size[d]);
  return count;
}

template <typename T, typename Map, int group, int width>
void launch_min_max(const Map& map, const Blocks& b, const RangePlan& plan, const void* in, const RangeParts& parts,
                    Stream stream) {
  using S = Compute<T>;
  launch(min_max_kernel<T, Map, group, width>, blocks_for(b.scales * plan.chunks * group, range_threads), dim3(range_threads),
         stream, static_cast<const T*>(in), map, static_cast<uint64_t>(b.scales), static_cast<uint64_t>(plan.chunks),
         static_cast<uint64_t>(plan.per_chunk), static_cast<S*>(parts.lo), static_cast<S*>(parts.hi), parts.skipped);
}

}  // namespace

bool rows_of_packets(const Blocks& b) {
  const int inner = b.dims - 1;
  if (b.block[inner] < b.size[inner] && b.block[inner] % packet != 0) return false;
  return b.dims == 1 || b.size[inner] % packet == 0;
}

RangePlan plan_range(const Blocks& b) {
  RangePlan plan;
  const int64_t count = largest_block(b);
  // Blocks that are single elements wide in memory: neighbouring threads take neighbouring blocks.
  const bool columns = b.block[b.dims - 1] < 4 && b.scales > 1;
  plan.group = columns ? 1 : count <= 64 ? 4 : count <= 2048 ? warp_size : range_threads;
  plan.chunks = std::clamp<int64_t>(count / (plan.group * elements_per_thread), 1, most_chunks);
  plan.per_chunk = ceil_div<int64_t>(ceil_div(count, plan.chunks), packet) * packet;
  plan.chunks = std::max<int64_t>(1, ceil_div(count, plan.per_chunk));
  return plan;
}

void min_max(const Blocks& b, const RangePlan& plan, const void* in, Float type, const RangeParts& parts, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    with_map(b, [&]<typename Map>(const Map& map) {
      const bool packets = rows_of_packets(b) && packets_fit(static_cast<const T*>(in));
      switch (plan.group) {
        case 1: return launch_min_max<T, Map, 1, 1>(map, b, plan, in, parts, stream);
        case 4:
          return packets ? launch_min_max<T, Map, 4, packet>(map, b, plan, in, parts, stream)
                         : launch_min_max<T, Map, 4, 1>(map, b, plan, in, parts, stream);
        case warp_size:
          return packets ? launch_min_max<T, Map, warp_size, packet>(map, b, plan, in, parts, stream)
                         : launch_min_max<T, Map, warp_size, 1>(map, b, plan, in, parts, stream);
        default:
          return packets ? launch_min_max<T, Map, range_threads, packet>(map, b, plan, in, parts, stream)
                         : launch_min_max<T, Map, range_threads, 1>(map, b, plan, in, parts, stream);
      }
    });
  });
}

void finish_range(const RangeFinish& args, bool wide, Stream stream) {
  if (args.scales == 0) return;
  const int group = args.chunks > 1 ? warp_size : 1;
  const dim3 grid = blocks_for(args.scales * group, range_threads), block(range_threads);
  if (wide) {
    launch(group == 1 ? finish_kernel<double, 1> : finish_kernel<double, warp_size>, grid, block, stream, args);
  } else {
    launch(group == 1 ? finish_kernel<float, 1> : finish_kernel<float, warp_size>, grid, block, stream, args);
  }
}

}  // namespace torchqat::cuda
