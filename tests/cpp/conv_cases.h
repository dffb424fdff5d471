// Convolutions of random codes for the kernel tests: geometry, packed weights and the exact sums, computed one by one.
#pragma once
#include <cstdint>
#include <random>
#include <vector>

#include "cpu/kernels/conv_grad.h"
#include "cpu/kernels/conv_int8.h"
#include "supported_paths.h"

namespace torchqat::cpu::conv {

struct Path {
  const char* name;
  Kernels kernels;
  GradKernels grad;
};

inline std::vector<Path> paths() {
  struct Entry {
    const char* name;
    Kernels (*kernels)();  // compiled for its instruction set, so only called where it is there
    GradKernels (*grad)();
  };
  std::vector<Path> all;
  for (const Entry& s : supported_paths<Entry>({{"scalar", &kernels_scalar, &grad_kernels_scalar},
                                                  {"avx2", &kernels_avx2, &grad_kernels_avx2},
                                                  {"avxvnni", &kernels_avxvnni, &grad_kernels_avxvnni},
                                                  {"avx512", &kernels_avx512, &grad_kernels_avx512},
                                                  {"amx", &kernels_amx, &grad_kernels_amx}})) {
    all.push_back({s.name, s.kernels(), s.grad()});
  }
  return all;
}

struct Geometry {
  int64_t groups, group_in, group_out;
  Dims in, kernel, stride, padding, dilation;
};

struct Case {
  Plan plan;
  std::vector<int8_t> weight;
  std::vector<uint8_t> codes, packed;  // codes: one sample, channels last
  int zero_point = 0;
};

inline Case make_case(const Geometry& g, int64_t tile_rows, bool extreme, unsigned seed) {
  std::mt19937 random(seed);
  Case c;
  const WeightLayout w = weight_layout(g.groups, g.group_in, g.group_out, 3, g.kernel);
  c.plan = make_plan(w, g.in, g.stride, g.padding, g.dilation, tile_rows);
  c.weight.resize(static_cast<size_t>(w.out_channels() * g.group_in * w.taps()));
  c.codes.resize(static_cast<size_t>(w.in_channels() * c.plan.in_pixels()));
  const unsigned kinds = seed % 2 == 0 ? 256 : 255;  // with -128 and without
  for (auto& q : c.weight) q = extreme ? -128 : static_cast<int8_t>(127 - static_cast<int>(random() % kinds));
  for (auto& q : c.codes) q = extreme ? 255 : static_cast<uint8_t>(random() % 256);
  c.zero_point = extreme ? 0 : static_cast<int>(random() % 256);
  c.packed.resize(static_cast<size_t>(w.packed_bytes()) + 64);
  pack_weight(w, c.weight.data(), c.packed.data());
  return c;
}

// Sum over the taps of (code - zero_point) * weight for output (pixel, channel).
inline int64_t exact_sum(const Case& c, int64_t pixel, int64_t o) {
  const Plan& p = c.plan;
  const WeightLayout& w = p.weight;
  const int64_t oz = pixel / (p.out[1] * p.out[2]), oy = pixel / p.out[2] % p.out[1], ox = pixel % p.out[2];
  int64_t sum = 0, at = o * w.group_in * w.taps();
  for (int64_t i = 0; i < w.group_in; ++i) {
    for (int64_t kz = 0; kz < w.kernel[0]; ++kz) {
      for (int64_t ky = 0; ky < w.kernel[1]; ++ky) {
        for (int64_t kx = 0; kx < w.kernel[2]; ++kx, ++at) {
          const int64_t z = oz * p.stride[0] + kz * p.dilation[0] - p.padding[0];
          const int64_t y = oy * p.stride[1] + ky * p.dilation[1] - p.padding[1];
          const int64_t x = ox * p.stride[2] + kx * p.dilation[2] - p.padding[2];
          if (z < 0 || y < 0 || x < 0 || z >= p.in[0] || y >= p.in[1] || x >= p.in[2]) continue;
          const int64_t channel = o / w.group_out * w.group_in + i;
          const int64_t code = c.codes[static_cast<size_t>(((z * p.in[1] + y) * p.in[2] + x) * w.in_channels() + channel)];
          sum += (code - c.zero_point) * c.weight[static_cast<size_t>(at)];
        }
      }
    }
  }
  return sum;
}

inline std::vector<uint8_t> aligned_bytes(int64_t n) { return std::vector<uint8_t>(static_cast<size_t>(n) + 64); }
inline uint8_t* align(std::vector<uint8_t>& bytes) {
  return bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
}

}  // namespace torchqat::cpu::conv
