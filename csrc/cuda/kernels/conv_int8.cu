// Padding, depthwise and implicit-GEMM kernels of the integer convolution.
#include "cuda/kernels/conv_int8.h"

#include "cuda/kernels/int8_tile.cuh"
#include "cuda/kernels/lane.cuh"
#include "numerics/requantize.h"
#include "numerics/scaled_sum.h"

namespace torchqat::cuda {
namespace {

constexpr int threads = 256;
constexpr float quiet = std::numeric_limits<float>::quiet_NaN();

__device__ bool positive(float s) { return s > 0.0f && s <= std::numeric_limits<float>::max(); }

// A thread per sample, and per offset of K.
__global__ void __launch_bounds__(threads) conv_prepare_kernel(const __grid_constant__ Conv c) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < c.samples) {
    bool valid = true;
    for (int w = 0; w < 16 && c.packed != nullptr; ++w) {
      valid &= reinterpret_cast<const uint32_t*>(c.packed)[w] == c.header.words[w];
    }
    const float s = c.input_scale[i * c.scale_stride], z = c.input_zero_point[i * c.zero_point_stride];
    const float low = static_cast<float>(c.quant_min), high = static_cast<float>(c.quant_max);
    valid &= positive(s) && numerics::in_range(z, low, high) && numerics::round_even(z) == z;
    c.sample_scale[i] = valid ? s : quiet;
    c.sample_zero_point[i] = valid ? static_cast<int32_t>(z) + c.shift : 0;
  }
  if (i < c.k_pad && !c.depthwise) {
    const int64_t run = i / c.run_pad, within = i % c.run_pad, row_len = c.kernel[2] * c.plane_in;
    const int64_t row = c.patch ? within / row_len : run, x = within % row_len;
    const int64_t kz = row / c.kernel[1], ky = row % c.kernel[1], kx = x / c.plane_in;
    const int64_t pixel = (kz * c.dilation[0] * c.padded[1] + ky * c.dilation[1]) * c.padded[2] + kx * c.dilation[2];
    // Beyond the run the weights are zero: any code will do.
    c.tap_offset[i] = within < c.run_len ? pixel * c.plane_in + x % c.plane_in : 0;
  }
}

// A thread takes one padded code; channels are fastest.
template <typename T>
__global__ void __launch_bounds__(threads) conv_pad_kernel(const __grid_constant__ Conv c) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= c.samples * c.sample_bytes) return;
  const int64_t sample = i / c.sample_bytes, in_sample = i % c.sample_bytes, plane = in_sample / c.plane_bytes;
  int64_t rest = in_sample % c.plane_bytes;
  const int64_t channel = plane * c.plane_in + rest % c.plane_in;
  rest /= c.plane_in;
  const int64_t x = rest % c.padded[2] - c.padding[2];
  rest /= c.padded[2];
  const int64_t y = rest % c.padded[1] - c.padding[1], z = rest / c.padded[1] - c.padding[0];
  const int32_t zero_point = c.sample_zero_point[sample];
  uint8_t code = static_cast<uint8_t>(zero_point);
  const bool inside = x >= 0 && x < c.in[2] && y >= 0 && y < c.in[1] && z >= 0 && z < c.in[0] && channel < c.channels;
  if (inside) {
    const int64_t pixels = c.in[0] * c.in[1] * c.in[2], pixel = (z * c.in[1] + y) * c.in[2] + x;
    const int64_t at = c.channels_last ? (sample * pixels + pixel) * c.channels + channel : (sample * c.channels + channel) * pixels + pixel;
    if constexpr (std::is_same_v<T, uint8_t>) {
      c.codes[i] = static_cast<uint8_t>(c.input_codes[at] ^ (c.flip ? 0x80 : 0));
      return;
    }
    const float value = widen<float>(static_cast<const T*>(c.input)[at]);
    const float shift = static_cast<float>(c.shift), stored = static_cast<float>(zero_point);
    const float scale = c.input_scale[sample * c.scale_stride];
    const float q = numerics::affine_code(value, scale, stored, static_cast<float>(c.quant_min) + shift,
                                          static_cast<float>(c.quant_max) + shift);
    code = narrow<uint8_t>(numerics::storable_code(q, stored));
    // Whichever thread writes it, it is the same NaN.
    if (numerics::is_nan(value)) c.sample_scale[sample] = quiet;
  }
  c.codes[i] = code;
}

struct Pixel {
  int64_t sample, number;  // of the sample's output pixels
  int64_t code;            // of the first tap, from the plane's start
};

__device__ __forceinline__ Pixel pixel_at(const Conv& c, int64_t row) {
  const int64_t pixels = c.out[0] * c.out[1] * c.out[2];
  const int64_t sample = row / pixels, number = row % pixels;
  const int64_t z = number / (c.out[1] * c.out[2]), y = number / c.out[2] % c.out[1], x = number % c.out[2];
  return {sample, number,
          ((z * c.stride[0] * c.padded[1] + y * c.stride[1]) * c.padded[2] + x * c.stride[2]) * c.plane_in};
}

// The types of the output are uniform branches here, which cost nothing and divide the number of kernels by four.
__device__ __forceinline__ void store_value(const Conv& c, float sum, int64_t sample, int64_t pixel, int64_t channel) {
  const float weight = c.weight_scale[channel * c.weight_stride];
  const float scale = numerics::product_scale(c.sample_scale[sample], positive(weight) ? weight : quiet);
  const float y = numerics::scaled_sum(sum, scale, c.bias != nullptr ? c.bias[channel] : 0.0f);
  const int64_t pixels = c.out[0] * c.out[1] * c.out[2];
  const int64_t at = c.channels_last ? (sample * pixels + pixel) * c.out_channels + channel
                                     : (sample * c.out_channels + channel) * pixels + pixel;
  if (c.to_codes) {
    const float s = *c.output_scale, z = *c.output_zero_point;
    const float low = static_cast<float>(c.output_min), high = static_cast<float>(c.output_max);
    const float code = numerics::integer_layer_code(y, c.relu, positive(s) ? s : quiet,
                                                    numerics::in_range(z, low, high) ? z : low, low, high);
    static_cast<uint8_t*>(c.output)[at] = static_cast<uint8_t>(static_cast<int32_t>(code));
    return;
  }
  switch (c.out_type) {
    case Float::bf16: static_cast<Bf16*>(c.output)[at] = narrow<Bf16>(y); return;
    case Float::f16: static_cast<Half*>(c.output)[at] = narrow<Half>(y); return;
    default: static_cast<float*>(c.output)[at] = y;
  }
}

__device__ __forceinline__ float exact_sum(int32_t acc, int32_t zero_point, int32_t weights) {
  return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(acc) -
                                                 static_cast<uint32_t>(zero_point) * static_cast<uint32_t>(weights)));
}

__global__ void __launch_bounds__(threads) conv_depthwise_kernel(const __grid_constant__ Conv c) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int64_t row = i / c.out_channels, channel = i % c.out_channels;
  if (row >= c.samples * c.out[0] * c.out[1] * c.out[2]) return;
  const Pixel p = pixel_at(c, row);
  const uint8_t* from = c.codes + p.sample * c.sample_bytes + p.code + channel;
  int32_t acc = 0;
  int64_t tap = 0;
  for (int64_t z = 0; z < c.kernel[0]; ++z) {
    for (int64_t y = 0; y < c.kernel[1]; ++y) {
      for (int64_t x = 0; x < c.kernel[2]; ++x, ++tap) {
        const int64_t at = (z * c.dilation[0] * c.padded[1] + y * c.dilation[1]) * c.padded[2] + x * c.dilation[2];
        acc += static_cast<int32_t>(from[at * c.plane_in]) * c.depthwise_codes[tap * c.channels + channel];
      }
    }
  }
  const int32_t weights = c.sums[channel];
  store_value(c, exact_sum(acc, c.sample_zero_point[p.sample], weights), p.sample, p.number, channel);
}

// Rows are output pixels of all samples; where the codes of a thread's rows begin is worked out once.
template <typename Tile, bool sixteen>
struct PixelRows {
  const uint8_t* first[Tile::rows_of_thread];
  const int64_t* tap_offset;
  __device__ __forceinline__ PixelRows(const Conv& c, int64_t row, int64_t plane) : tap_offset(c.tap_offset) {
    const int64_t rows = c.samples * c.out[0] * c.out[1] * c.out[2];
#pragma unroll
    for (int i = 0; i < Tile::rows_of_thread; ++i) {
      const int64_t r = row + static_cast<int>(threadIdx.x) / 4 + i * (Tile::threads / 4);
      const Pixel p = pixel_at(c, r < rows ? r : rows - 1);
      first[i] = c.codes + p.sample * c.sample_bytes + plane * c.plane_bytes + p.code;
    }
  }
  __device__ __forceinline__ void copy(uint8_t* shared, int i, int k) const {
    const uint8_t* from = first[i];
    if constexpr (sixteen) {  // channels in whole sixteens: sixteen codes of K lie together, aligned
      copy_async(shared, from + tap_offset[k]);
    } else {
      uint4 words;
      uint8_t bytes[16];
#pragma unroll
      for (int j = 0; j < 16; ++j) bytes[j] = from[tap_offset[k + j]];
      memcpy(&words, bytes, sizeof words);
      *reinterpret_cast<uint4*>(shared) = words;
    }
  }
};

struct PixelSink {
  const Conv& c;
  int64_t first_row, plane, panel;
  __device__ __forceinline__ bool uses(int row) const { return first_row + row < c.samples * c.out[0] * c.out[1] * c.out[2]; }
  __device__ __forceinline__ int64_t in_plane(int column) const { return panel * kPanelColumns + column; }
  __device__ __forceinline__ bool uses_column(int column) const {
    return in_plane(column) < c.plane_out && plane * c.plane_out + in_plane(column) < c.out_channels;
  }
  __device__ __forceinline__ float exact(int32_t acc, int64_t chunk, int row, int column) const {
    const int64_t p = plane * c.panels + panel + column / kPanelColumns;
    const int32_t weights = c.sums[(p * c.chunks + chunk) * kPanelColumns + column % kPanelColumns];
    return exact_sum(acc, c.sample_zero_point[pixel_at(c, first_row + row).sample], weights);
  }
  __device__ __forceinline__ void store(float sum, int row, int column) const {
    const Pixel p = pixel_at(c, first_row + row);
    store_value(c, sum, p.sample, p.number, plane * c.plane_out + in_plane(column));
  }
};

template <typename Tile, bool segmented, bool sixteen>
__global__ void __launch_bounds__(Tile::threads) conv_gemm_kernel(const __grid_constant__ Conv c, int64_t row_blocks) {
  __shared__ Stage<Tile> stages[Tile::stages];
  const int64_t panel_blocks = ceil_div<int64_t>(c.panels, Tile::panels);
  const int64_t row = static_cast<int64_t>(blockIdx.x) % row_blocks * Tile::bm, rest = static_cast<int64_t>(blockIdx.x) / row_blocks;
  const int64_t panel = rest % panel_blocks * Tile::panels, plane = rest / panel_blocks;
  multiply_block<Tile, segmented>(stages, PixelRows<Tile, sixteen>(c, row, plane),
                                  c.panel_codes + plane * c.panels * c.k_pad * kPanelColumns, c.panels, c.k_pad, panel,
                                  PixelSink{c, row, plane, panel});
}

template <typename Tile>
void launch_gemm(const Conv& c, int64_t rows, Stream stream) {
  const int64_t row_blocks = ceil_div<int64_t>(rows, Tile::bm), panel_blocks = ceil_div<int64_t>(c.panels, Tile::panels);
  const bool sixteen = c.plane_in % 16 == 0;
  auto kernel = sixteen ? conv_gemm_kernel<Tile, false, true> : conv_gemm_kernel<Tile, false, false>;
  if constexpr (Tile::bm <= 64) {  // the segments' totals beside the sums: too many registers for a larger tile
    if (c.chunks > 1) kernel = sixteen ? conv_gemm_kernel<Tile, true, true> : conv_gemm_kernel<Tile, true, false>;
  }
  launch(kernel, blocks_for(row_blocks * panel_blocks * c.planes, 1), dim3(Tile::threads), stream, c, row_blocks);
}

template <typename T>
void launch_pad(const Conv& c, Stream stream) {
  launch(conv_pad_kernel<T>, blocks_for(c.samples * c.sample_bytes, threads), dim3(threads), stream, c);
}

bool nothing_to_do(const Conv& c) { return c.samples == 0 || c.out_channels == 0 || c.out[0] * c.out[1] * c.out[2] == 0; }

}  // namespace

void conv_prepare(const Conv& c, Stream stream) {
  if (nothing_to_do(c)) return;
  launch(conv_prepare_kernel, blocks_for(c.samples > c.k_pad ? c.samples : c.k_pad, threads), dim3(threads), stream, c);
}

void conv_multiply(const Conv& c, Stream stream) {
  if (nothing_to_do(c)) return;
  const int64_t rows = c.samples * c.out[0] * c.out[1] * c.out[2];
  if (c.input_codes != nullptr) {
    launch_pad<uint8_t>(c, stream);
  } else {
    switch (c.type) {
      case Float::bf16: launch_pad<Bf16>(c, stream); break;
      case Float::f16: launch_pad<Half>(c, stream); break;
      default: launch_pad<float>(c, stream);
    }
  }
  if (c.depthwise) {
    launch(conv_depthwise_kernel, blocks_for(rows * c.out_channels, threads), dim3(threads), stream, c);
  } else if (c.chunks == 1 && c.panels >= 2 && ceil_div<int64_t>(rows, 128) * ceil_div<int64_t>(c.panels, 2) * c.planes >= 64) {
    launch_gemm<Tiling<128, 128, 64, 32>>(c, rows, stream);
  } else {
    launch_gemm<Tiling<64, 64, 32, 32>>(c, rows, stream);
  }
}

void conv_int8(const Conv& c, Stream stream) {
  conv_prepare(c, stream);
  conv_multiply(c, stream);
}

}  // namespace torchqat::cuda
