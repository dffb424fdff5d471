"""BatchNorm with a ReLU on CUDA: values bit for bit given the statistics, sums within a tolerance."""

import pytest
import torch
from cuda_cases import assert_same, check, on_cpu, on_device, requires_device, shuffled_turns  # noqa: F401

pytestmark = requires_device

SHAPES = [(2, 3), (7, 40), (4, 5, 33), (3, 6, 5, 7), (2, 70, 4, 4), (1, 2, 60, 50), (2, 3, 2, 3, 4), (0, 3, 2)]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, relu):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=g) * 2 + 30
    grad = torch.randn(shape, generator=g)
    weight, bias = torch.rand(shape[1], generator=g) + 0.5, torch.randn(shape[1], generator=g)
    formats = [torch.contiguous_format] + ([torch.channels_last] if len(shape) == 4 else [])
    for memory_format in formats:
        own = x.contiguous(memory_format=memory_format)
        for affine in ((weight, bias), (None, None)):
            y, mean, var = on_cpu("batch_norm_relu", own, *affine, 1e-5, relu)[0]
            found = on_device("batch_norm_relu", own, *affine, 1e-5, relu)[0]
            assert y.stride() == found[0].stride()
            for a, b in zip((y, mean, var), found):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            args = (grad, own, *affine, mean, var, 1e-5, relu)
            for wanted in ([True] * 3, [False, True, False]):
                exact = on_cpu("_batch_norm_relu_backward", *args, wanted)[0]
                got = on_device("_batch_norm_relu_backward", *args, wanted)[0]
                for a, b in zip(exact, got):
                    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(shape))
            assert_same(got, on_device("_batch_norm_relu_backward", *args, wanted)[0])


def test_a_channel_of_many_chunks():
    x = torch.randn(4, 2, 40, 40)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    args = (torch.randn(4, 2, 40, 40), x, None, None, mean, var, 1e-5, True, [True] * 3)
    for a, b in zip(on_cpu("_batch_norm_relu_backward", *args)[0], on_device("_batch_norm_relu_backward", *args)[0]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_running_statistics(dtype):
    mean, var = torch.randn(5), torch.rand(5)
    for count, momentum in ((0, 0.1), (64, 0.1), (2, 1.0), (9, 0.0)):
        check("batch_norm_update_", torch.randn(5).to(dtype), torch.rand(5).to(dtype), mean, var, count, momentum)
