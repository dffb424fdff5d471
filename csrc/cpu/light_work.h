// Threads for loops that take less than a nanosecond per element: a second thread takes longer to wake than the first one needs
// for what `grain` would leave to it.
#pragma once
#include "ops/torch_headers.h"

#include "cpu/block_view.h"

namespace torchqat::cpu {

constexpr int64_t light_grain = 4 * grain;

// As parallel_elements.
template <typename Work>
void parallel_light(int64_t numel, const Work& work) {
  at::parallel_for(0, (numel + tile - 1) / tile, light_grain / tile,
                   [&](int64_t first, int64_t last) { work(first * tile, std::min(last * tile, numel)); });
}

}  // namespace torchqat::cpu
