"""The CPU paths, and the fixture that takes a test through each of them (conftest.py goes back to the one before)."""

import pytest
import torch

import torchqat

ISAS = torchqat._C.supported_isas()


@pytest.fixture(params=ISAS)
def isa(request):
    torch.ops.torchqat._set_cpu_isa(request.param)
    return request.param
