// Float inputs: the instances of the kernel for few rows, which serves any number of them, so that a row's bits do not depend on how
// many there are.
#include "cuda/kernels/linear_grouped.cuh"

namespace torchqat::cuda {

void linear_grouped(const LinearGrouped& a, Stream stream) {
  if (a.m == 0 || a.n == 0) return;
  if (a.codes != nullptr) return linear_grouped_codes(a, stream);
  switch (a.type) {
    case Float::bf16: return launch_few_rows<Bf16>(a, stream);
    case Float::f16: return launch_few_rows<Half>(a, stream);
    default: return launch_few_rows<float>(a, stream);
  }
}

}  // namespace torchqat::cuda
