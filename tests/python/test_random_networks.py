"""Random networks under random schemes: what is trained, what is converted and what comes back from a file give the same bits.

Each example draws layers, scheme, batch, memory format, CPU path and number of threads; forwards of one model run on
different paths. TORCHQAT_RANDOM_NETWORKS=2000 draws more of them.
"""

import contextlib
import os
import random

import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec

COUNT = int(os.environ.get("TORCHQAT_RANDOM_NETWORKS", "80"))
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def network(draw: random.Random, dims: int, channels: int) -> nn.Sequential:
    layers = []
    for _ in range(draw.randint(1, 3)):
        out, groups = draw.choice([4, 6, 8, 12, 17, 64]), 1
        if draw.random() < 0.4:
            out, groups = channels * draw.choice([1, 2]), channels
        layers.append(
            CONVOLUTIONS[dims - 1](
                channels,
                out,
                draw.choice([1, 2, 3]),
                stride=draw.choice([1, 2]),
                padding=draw.choice([1, 2]),
                dilation=draw.choice([1, 1, 2]),
                groups=groups,
                bias=draw.random() < 0.5,
            )
        )
        if draw.random() < 0.6:
            layers.append(BATCH_NORMS[dims - 1](out))
        layers.append(draw.choice([nn.ReLU(), nn.Identity(), nn.ReLU6(), nn.GELU()]))
        channels = out
    return nn.Sequential(*layers, POOLS[dims - 1](1), nn.Flatten(), nn.Linear(channels, draw.choice([1, 5, 33])))


def weight_spec(draw) -> QuantSpec:
    dtype = draw.choice(["int8", "int8", "int4", "int3", "int2", "int5", "ternary", "binary"])
    granularity = draw.choice(["tensor", "channel", "group:7", "group:32"])
    estimators = ["ste", "ste", "lsq", "tqt"] if granularity.startswith("group") else ["ste", "ste", "lsq", "tqt", "dorefa"]
    return QuantSpec(
        dtype,
        granularity,
        observer=draw.choice(["minmax", "mse"]) if dtype.startswith("int") else "minmax",
        estimator=draw.choice(estimators) if dtype.startswith("int") else "ste",
        scale_dtype=draw.choice(["float32", "bfloat16", "float16"]),
    )


def activation_spec(draw) -> QuantSpec:
    dtype, symmetric = draw.choice(["uint8", "int8", "uint4", "int4", "uint5", "int6"]), draw.random() < 0.4
    if draw.random() < 0.3:
        return QuantSpec(dtype, "token", symmetric=symmetric, observer="dynamic")
    observer = draw.choice(["ema", "minmax", "percentile", "mse", "histogram", "dynamic"])
    learned = ["lsq", "lsq+"] if not symmetric else ["lsq", "tqt", "pact"] if dtype.startswith("u") else ["lsq", "tqt"]
    estimator = draw.choice(["ste", "ste", *learned]) if observer != "dynamic" else "ste"
    return QuantSpec(dtype, "tensor", symmetric=symmetric, observer=observer, estimator=estimator)


def on_any_path(draw):
    torch.ops.torchqat._set_cpu_isa(draw.choice(torchqat._C.supported_isas()))
    torch.set_num_threads(draw.choice([1, 2]))


@pytest.mark.parametrize("seed", range(COUNT))
def test_trained_converted_and_loaded_agree(seed, tmp_path):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    dims, channels = draw.choice([1, 2, 2, 3]), draw.choice([1, 3, 4, 16])
    sizes = [draw.randint(11, 14) for _ in range(dims)]
    channels_last = dims == 2 and draw.random() < 0.5

    def batch(samples):
        x = torch.randn(samples, channels, *sizes) * 3 + 1
        return x.to(memory_format=torch.channels_last) if channels_last else x

    weight = weight_spec(draw)
    backward = draw.choice(["auto", "float32", "bfloat16", "int16"])
    config = QConfig(weight, activation_spec(draw), backward)
    model = network(draw, dims, channels)
    on_any_path(draw)
    prepared = torchqat.prepare_qat(model, config)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        reuse = torchqat.reuse_weights(prepared) if draw.random() < 0.3 else contextlib.nullcontext()
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=draw.random() < 0.2)
        with reuse, autocast:
            for _ in range(draw.choice([1, 2])):
                prepared(batch(draw.choice([2, 3, 5]))).float().square().mean().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in prepared.parameters())
        optimizer.step()

    x = batch(draw.choice([1, 2, 4]))
    evaluated = prepared.eval()(x)
    converted = torchqat.convert(prepared, example_inputs=x if draw.random() < 0.5 else None)
    on_any_path(draw)
    deployed = converted(x)
    torchqat.save(converted, tmp_path / "model")
    on_any_path(draw)
    assert torch.equal(torchqat.load(tmp_path / "model", model)(x), deployed)
    torchqat.freeze_batch_norm(torchqat.freeze_observers(prepared)).train()
    assert torch.equal(prepared(x), evaluated)
    if any(getattr(m, "integer", True) is False for m in prepared.modules()):
        torch.testing.assert_close(deployed, evaluated, rtol=1e-3, atol=1e-4)
    else:
        assert torch.equal(deployed, evaluated)
