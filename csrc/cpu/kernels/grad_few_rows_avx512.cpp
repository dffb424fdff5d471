// A weight's gradient from few rows: the avx512 path.
#include "cpu/kernels/grad_few_rows_generic.h"

namespace torchqat::cpu {

void grad_few_rows_avx512(const FewRowsGrad& g, int64_t begin, int64_t end) { run_grad_few_rows(g, begin, end); }

}  // namespace torchqat::cpu
