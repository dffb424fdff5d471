// Phases of a transposed convolution to their image and back, on the CPU: one walk over the phases' pixels, elements of any type.
#include "ops/phases.h"

namespace torchqat {
namespace {

using Dims = std::array<int64_t, 3>;

Dims dims_of(at::IntArrayRef list, int64_t fill) {
  Dims dims{fill, fill, fill};
  for (size_t d = 0; d < list.size(); ++d) dims[3 - list.size() + d] = list[d];
  return dims;
}

struct Geometry {
  Dims sizes, lengths, stride, padding;
  int64_t samples, channels;  // of the image
  bool channels_last;

  int64_t phases() const { return stride[0] * stride[1] * stride[2]; }
  int64_t image() const { return lengths[0] * lengths[1] * lengths[2]; }
  int64_t pixels() const { return sizes[0] * sizes[1] * sizes[2]; }
};

// Phases [first, last) along dimension d whose pixel `at` lies in the image.
std::pair<int64_t, int64_t> inside(const Geometry& g, size_t d, int64_t at) {
  const int64_t start = at * g.stride[d] - g.padding[d];
  return {std::clamp<int64_t>(-start, 0, g.stride[d]), std::clamp<int64_t>(g.lengths[d] - start, 0, g.stride[d])};
}

// One row of pixels of every phase and channel, as far as it lies in the image.
template <typename T, bool ToImage>
void move_row(const Geometry& g, int64_t row, T* phase_values, T* image_values) {
  const int64_t phases = g.phases(), y = row % g.sizes[1], z = row / g.sizes[1] % g.sizes[0], n = row / g.sizes[1] / g.sizes[0];
  T* parts = phase_values + n * g.pixels() * g.channels * phases;
  T* image = image_values + n * g.image() * g.channels;
  const auto [z_first, z_last] = inside(g, 0, z);
  const auto [y_first, y_last] = inside(g, 1, y);
  for (int64_t pz = z_first; pz < z_last; ++pz) {
    for (int64_t py = y_first; py < y_last; ++py) {
      const int64_t to_row = ((z * g.stride[0] + pz - g.padding[0]) * g.lengths[1] + y * g.stride[1] + py - g.padding[1]) * g.lengths[2];
      const int64_t from_row = (z * g.sizes[1] + y) * g.sizes[2], first_phase = (pz * g.stride[1] + py) * g.stride[2];
      if (g.channels_last) {
        for (int64_t x = 0; x < g.sizes[2]; ++x) {
          const auto [x_first, x_last] = inside(g, 2, x);
          for (int64_t px = x_first; px < x_last; ++px) {
            T* part = parts + (from_row + x) * g.channels * phases + first_phase + px;
            T* pixel = image + (to_row + x * g.stride[2] + px - g.padding[2]) * g.channels;
            if (phases == 4) {  // the usual case, with a step that the compiler knows
              for (int64_t c = 0; c < g.channels; ++c) ToImage ? pixel[c] = part[4 * c] : part[4 * c] = pixel[c];
            } else {
              for (int64_t c = 0; c < g.channels; ++c) ToImage ? pixel[c] = part[c * phases] : part[c * phases] = pixel[c];
            }
          }
        }
        continue;
      }
      for (int64_t c = 0; c < g.channels; ++c) {
        for (int64_t px = 0; px < g.stride[2]; ++px) {
          T* part = parts + (c * phases + first_phase + px) * g.pixels() + from_row;
          T* line = image + c * g.image() + to_row;
          for (int64_t x = 0, at = px - g.padding[2]; x < g.sizes[2]; ++x, at += g.stride[2]) {
            if (at >= 0 && at < g.lengths[2]) ToImage ? line[at] = part[x] : part[x] = line[at];
          }
        }
      }
    }
  }
}

template <bool ToImage>
void move(const Geometry& g, void* parts, void* image, size_t bytes) {
  const int64_t row = g.sizes[2] * g.channels * g.phases();
  at::parallel_for(0, g.samples * g.sizes[0] * g.sizes[1], std::max<int64_t>(1, 16384 / std::max<int64_t>(row, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (bytes == 2) {
        move_row<uint16_t, ToImage>(g, r, static_cast<uint16_t*>(parts), static_cast<uint16_t*>(image));
      } else if (bytes == 4) {
        move_row<uint32_t, ToImage>(g, r, static_cast<uint32_t*>(parts), static_cast<uint32_t*>(image));
      } else {
        move_row<uint64_t, ToImage>(g, r, static_cast<uint64_t*>(parts), static_cast<uint64_t*>(image));
      }
    }
  });
}

Geometry geometry(const at::Tensor& image, at::IntArrayRef sizes, at::IntArrayRef stride, at::IntArrayRef padding, at::MemoryFormat format) {
  const auto bytes = image.element_size();
  TORCH_CHECK_TYPE(bytes == 2 || bytes == 4 || bytes == 8, "_interleave_phases: input must have elements of 2, 4 or 8 bytes, got ",
                   image.scalar_type());
  return {dims_of(sizes, 1), dims_of(image.sizes().slice(2), 1), dims_of(stride, 1), dims_of(padding, 0), image.size(0), image.size(1),
          format != at::MemoryFormat::Contiguous};
}

// Whether the phases reach every pixel of the image.
bool covers(const Geometry& g) {
  for (size_t d = 0; d < 3; ++d) {
    if (g.padding[d] + g.lengths[d] > g.sizes[d] * g.stride[d]) return false;
  }
  return true;
}

at::Tensor interleave_cpu(const at::Tensor& input, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef lengths) {
  const int64_t phases = check_interleave_phases("_interleave_phases", input, stride, padding, c10::fromIntArrayRefSlow(lengths));
  const auto format = input.suggest_memory_format();
  const at::Tensor parts = input.contiguous(format);
  at::Tensor image = at::empty_symint(interleaved_sizes(input, phases, c10::fromIntArrayRefSlow(lengths)), input.options(), format);
  const Geometry g = geometry(image, input.sizes().slice(2), stride, padding, format);
  TORCH_CHECK_VALUE(covers(g), "_interleave_phases: lengths must lie within the phases, got ", lengths, " of ", input.sizes());
  move<true>(g, const_cast<void*>(parts.const_data_ptr()), image.mutable_data_ptr(), image.element_size());
  return image;
}

at::Tensor interleave_backward_cpu(const at::Tensor& grad, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef sizes) {
  const int64_t phases = check_interleave_phases("_interleave_phases_backward", grad, stride, padding, c10::fromIntArrayRefSlow(sizes));
  const auto format = grad.suggest_memory_format();
  const at::Tensor image = grad.contiguous(format);
  const Geometry g = geometry(image, sizes, stride, padding, format);
  TORCH_CHECK_VALUE(covers(g), "_interleave_phases_backward: sizes must reach the whole of grad, got ", sizes, " for ", grad.sizes());
  at::Tensor parts = at::empty_symint(phase_sizes(grad, phases, c10::fromIntArrayRefSlow(sizes)), grad.options(), format);
  // What lies in no phase's pixel of the image has no gradient.
  if (g.image() != g.pixels() * phases) parts.zero_();
  move<false>(g, parts.mutable_data_ptr(), const_cast<void*>(image.const_data_ptr()), image.element_size());
  return parts;
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("_interleave_phases", &interleave_cpu);
  m.impl("_interleave_phases_backward", &interleave_backward_cpu);
}

}  // namespace
}  // namespace torchqat
