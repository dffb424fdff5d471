"""Integer convolutions on CUDA against the CPU ops, on a GPU or on the host shim (see cuda_cases)."""

import pytest
import torch
from cuda_cases import check, codes, on_device, requires_device, shuffled_turns, values  # noqa: F401

pytestmark = requires_device

# input, weight, stride, padding, dilation, groups
CONVS = [
    ((2, 3, 9, 7), (5, 3, 3, 3), 1, 1, 1, 1),
    ((3, 16, 6, 6), (70, 16, 3, 3), 2, 1, 1, 1),
    ((1, 32, 8, 5), (24, 32, 1, 1), 1, 0, 1, 1),
    ((2, 6, 7, 7), (6, 1, 3, 3), 1, 1, 1, 6),
    ((2, 8, 9, 9), (12, 4, 3, 2), 1, 2, 2, 2),
    ((2, 40, 5, 5), (40, 20, 3, 3), 1, 1, 1, 2),
    ((2, 5, 33), (9, 5, 4), 3, 2, 1, 1),
    ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), 1, 1, 1, 1),
    ((1, 7400, 3, 3), (2, 7400, 3, 3), 1, 1, 1, 1),
    ((0, 3, 5, 5), (2, 3, 3, 3), 1, 0, 1, 1),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CONVS)
def test_conv_int8(case, dtype):
    shape, weight, stride, padding, dilation, groups = case
    if shape[1] > 1000 and dtype != torch.float32:
        pytest.skip("a long K is tried in float32")
    spatial = len(shape) - 2
    lists = [[n] * spatial for n in (stride, padding, dilation)]
    packed = check("conv_int8_pack", codes(weight), groups)
    g = torch.Generator().manual_seed(1)
    weight_scale, bias = torch.rand(weight[0], generator=g) * 0.01 + 1e-3, torch.randn(weight[0], generator=g)
    x = values(shape, dtype, special=False)
    per_tensor = torch.tensor(0.03), torch.tensor(90)
    per_sample = torch.rand(shape[0], generator=g) * 0.1 + 0.01, torch.randint(-100, 100, (shape[0],), generator=g)
    rest = (list(weight[2:]), *lists, groups)
    check("conv_int8", x, packed, weight_scale, bias, *per_tensor, 0, 255, *rest)
    if shape[1] > 1000:  # one pass over a long K is enough
        return
    check("conv_int8", x, packed, weight_scale, None, *per_sample, -128, 127, *rest)
    if spatial == 2 and x.numel() > 0:
        last = x.to(memory_format=torch.channels_last)
        check("conv_int8", last, packed, weight_scale, bias, *per_tensor, 0, 255, *rest)
        if shape[0] > 1:
            x[1, 0, 1, 2] = float("nan")
            y = check("conv_int8", x, packed, weight_scale, None, *per_tensor, 0, 255, *rest)
            assert y[1].isnan().all() and not y[0].isnan().any()
            foreign = on_device("conv_int8_pack", codes(weight), groups)[0]
            foreign[8] += 1
            assert on_device("conv_int8", x, foreign, weight_scale, None, *per_tensor, 0, 255, *rest)[0].isnan().all()
