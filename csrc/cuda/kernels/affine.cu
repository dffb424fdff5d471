// The instances of the integer-grid kernels.
#include "cuda/kernels/affine.cuh"

namespace torchqat::cuda {

void fake_quantize(const AffineArgs& args, Float type, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    auto* in = static_cast<T*>(const_cast<void*>(args.in));
    auto* out = static_cast<T*>(args.out);
    launch_affine<FakeQuantize<T>>(args, {in}, {out}, true, packets_fit(in) && packets_fit(out), stream);
  });
}

void quantize(const AffineArgs& args, Float type, Code code, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    auto* in = static_cast<T*>(const_cast<void*>(args.in));
    const Codes out{args.out, code};
    launch_affine<Quantize<T>>(args, {in}, out, true, packets_fit(out, in), stream);
  });
}

void dequantize(const AffineArgs& args, Code code, Float type, Stream stream) {
  with_float(type, [&]<typename T>(T*) {
    const Codes in{const_cast<void*>(args.in), code};
    auto* out = static_cast<T*>(args.out);
    launch_affine<Dequantize<T>>(args, in, {out}, false, packets_fit(in, out), stream);
  });
}

void apply_mask(const void* grad, const uint8_t* mask, void* out, int64_t numel, Float type, Stream stream) {
  with_float(type, [&]<typename T>(T*) { launch_apply_mask<T>(grad, mask, out, numel, stream); });
}

}  // namespace torchqat::cuda
