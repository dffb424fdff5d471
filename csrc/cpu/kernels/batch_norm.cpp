// BatchNorm: what blocks summed, put together. Double precision, compiled once.
#include "cpu/kernels/batch_norm.h"

#include <vector>

#include "numerics/batch_norm.h"

namespace torchqat::cpu::batch_norm {

void merge_sums(const Shape& s, const float* parts, double* sum) {
  std::fill_n(sum, s.channels, 0.0);
  for (int64_t b = 0; b < s.blocks(); ++b) {
    for (int64_t c = 0; c < s.channels; ++c) sum[c] += static_cast<double>(parts[b * s.channels + c]);
  }
}

void merge_moments(const Shape& s, const Moments& parts, float* mean, float* var) {
  std::vector<double> total(static_cast<size_t>(s.channels), 0.0), squares(static_cast<size_t>(s.channels), 0.0);
  for (int64_t b = 0; b < s.blocks(); ++b) {
    const auto size = static_cast<double>(s.size_of(b));
    for (int64_t c = 0, at = b * s.channels; c < s.channels; ++c, ++at) {
      total[static_cast<size_t>(c)] += size * static_cast<double>(parts.mean[at]) + static_cast<double>(parts.rest[at]);
    }
  }
  const auto count = static_cast<double>(s.count());
  for (double& value : total) value /= count;
  // About the mean of all: squares about a block's rounded mean, and how far that lies away.
  for (int64_t b = 0; b < s.blocks(); ++b) {
    const auto size = static_cast<double>(s.size_of(b));
    for (int64_t c = 0, at = b * s.channels; c < s.channels; ++c, ++at) {
      const double away = static_cast<double>(parts.mean[at]) - total[static_cast<size_t>(c)];
      squares[static_cast<size_t>(c)] +=
          static_cast<double>(parts.squares[at]) + away * (2.0 * static_cast<double>(parts.rest[at]) + size * away);
    }
  }
  for (int64_t c = 0; c < s.channels; ++c) {
    mean[c] = static_cast<float>(total[static_cast<size_t>(c)]);
    var[c] = static_cast<float>(numerics::lane_max(0.0, squares[static_cast<size_t>(c)] / count));
  }
}

void update_average(float* running, const float* now, int64_t n, double momentum) {
  for (int64_t i = 0; i < n; ++i) {
    running[i] = static_cast<float>(numerics::running_average(static_cast<double>(running[i]), static_cast<double>(now[i]), momentum));
  }
}

}  // namespace torchqat::cpu::batch_norm
