"""Every op of the fake-quant family: opcheck, and torch.compile(fullgraph, dynamic shapes) forward and backward against eager.

A new op of the family without an entry here fails the first test.
"""

import pytest
import torch

import torchqat

ops = torch.ops.torchqat
FAMILY = ("fake_quantize", "_fake_quantize", "choose_", "qparams_", "observe_", "merge_range_", "quantize", "dequantize",
          "dorefa_", "_dorefa_", "learned_scale", "_learned_scale", "power_of_two", "_power_of_two")  # fmt: skip


def data(rows, columns):
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 2
    return x, torch.full((rows, 1), 0.07), torch.full((rows, 1), 2, dtype=torch.int32)


def mask_of(x):
    return torch.full(((x.numel() + 7) // 8,), 0b10110101, dtype=torch.uint8)


def state():
    return torch.tensor(float("inf")), torch.tensor(float("-inf")), torch.zeros((), dtype=torch.int64)


def histogram():
    return torch.zeros(64, dtype=torch.int64), torch.tensor(0.0), *state()


# name -> function of (rows, columns) that gives fresh arguments. Floating inputs of ops that differentiate are made leaves.
ROWS = [1, -1]
SAMPLES = {
    "fake_quantize": lambda n, k: (*data(n, k), ROWS, -8, 7),
    "_fake_quantize_forward": lambda n, k: (*data(n, k), ROWS, -8, 7),
    "_fake_quantize_backward": lambda n, k: (data(n, k)[0], mask_of(data(n, k)[0]), []),
    "fake_quantize_dynamic": lambda n, k: (data(n, k)[0], ROWS, 0, 15, False),
    "_fake_quantize_dynamic_forward": lambda n, k: (data(n, k)[0], ROWS, 0, 15, False, True),
    "fake_quantize_float": lambda n, k: (data(n, k)[0], None, [1, 32], "mxfp4", "floor"),
    "_fake_quantize_float_forward": lambda n, k: (data(n, k)[0], None, [1, 32], "mxfp8_e4m3", "even"),
    "fake_quantize_learned": lambda n, k: (*data(n, k)[:2], torch.full((n, 1), 1.7), ROWS, -8, 7, 0.1),
    "_fake_quantize_learned_backward": lambda n, k: (data(n, k)[0], *data(n, k)[:2], torch.full((n, 1), 1.7), ROWS, -8, 7, 0.1),
    "fake_quantize_pact": lambda n, k: (*data(n, k)[:2], ROWS, 0, 15, 0.1),
    "_fake_quantize_pact_backward": lambda n, k: (data(n, k)[0], *data(n, k)[:2], ROWS, 0, 15, 0.1),
    "fake_quantize_observed": lambda n, k: (*data(n, k), ROWS, -8, 7),
    "_fake_quantize_observed_forward": lambda n, k: (*data(n, k), ROWS, -8, 7),
    "fake_quantize_stochastic": lambda n, k: (*data(n, k), ROWS, -8, 7, 5, 3),
    "_fake_quantize_stochastic_forward": lambda n, k: (*data(n, k), ROWS, -8, 7, 5, 3),
    "fake_quantize_binary": lambda n, k: (*data(n, k)[:2], ROWS),
    "fake_quantize_ternary": lambda n, k: (*data(n, k)[:2], ROWS),
    "dorefa_weight": lambda n, k: (data(n, k)[0], ROWS),
    "_dorefa_weight_backward": lambda n, k: (data(n, k)[0] + 1, data(n, k)[0], ROWS),
    "learned_scale": lambda n, k: (torch.zeros(n, 1), data(n, k)[1]),
    "_learned_scale_backward": lambda n, k: (torch.ones(n, 1), torch.zeros(n, 1), data(n, k)[1]),
    "power_of_two_scale": lambda n, k: (torch.zeros(n, 1), data(n, k)[1]),
    "_power_of_two_scale_backward": lambda n, k: (torch.ones(n, 1), data(n, k)[1]),
    "choose_qparams": lambda n, k: (data(n, k)[0], ROWS, 0, 255, False),
    "choose_qparams_mse": lambda n, k: (data(n, k)[0], ROWS, -2, 1, True),
    "choose_scale_binary": lambda n, k: (data(n, k)[0], ROWS),
    "choose_scale_ternary": lambda n, k: (data(n, k)[0], ROWS),
    "qparams_from_range": lambda n, k: (-data(n, k)[1], data(n, k)[1], 0, 255, False),
    "qparams_from_histogram": lambda n, k: (torch.arange(64), torch.tensor(4.0), torch.tensor(-3.0), torch.tensor(4.0), -8, 7, True, "mse", 99.0),
    "observe_minmax_": lambda n, k: (data(n, k)[0], *state(), [], 0.1, 0, 255, False),
    "observe_histogram_": lambda n, k: (data(n, k)[0], *histogram()),
    "merge_range_": lambda n, k: (*state(), torch.tensor(-1.0), torch.tensor(2.0), torch.tensor(0), 0.1, 0, 255, False),
    "quantize": lambda n, k: (*data(n, k), ROWS, -8, 7, torch.int8),
    "quantize_binary": lambda n, k: (data(n, k)[0],),
    "dequantize": lambda n, k: (data(n, k)[0].to(torch.int8), *data(n, k)[1:], ROWS, torch.float32),
}  # fmt: skip
# Differentiable arguments by place.
GRADIENTS = {
    **dict.fromkeys(
        ["fake_quantize", "fake_quantize_dynamic", "fake_quantize_float", "fake_quantize_observed", "fake_quantize_stochastic",
         "fake_quantize_binary", "fake_quantize_ternary", "dorefa_weight", "learned_scale", "power_of_two_scale"], (0,)
    ),
    "fake_quantize_learned": (0, 1, 2),
    "fake_quantize_pact": (0, 1),
}  # fmt: skip


def test_every_op_of_the_family_is_here():
    assert torchqat
    names = {s.name.split("::")[1] for s in torch._C._jit_get_all_schemas() if s.name.startswith("torchqat::")}
    family = {n for n in names if n.startswith(FAMILY)}
    assert family == set(SAMPLES)
    backward = {n for n in names if n.startswith("_") and n.endswith("_backward") and n in family}
    assert len(backward) == 6


def arguments(name, rows, columns):
    made = list(SAMPLES[name](rows, columns))
    for place in GRADIENTS.get(name, ()):
        made[place] = made[place].requires_grad_()
    return made


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name):
    torch.library.opcheck(getattr(ops, name).default, tuple(SAMPLES[name](6, 64)))
    if name in GRADIENTS:
        torch.library.opcheck(getattr(ops, name).default, tuple(arguments(name, 6, 64)))


def test_opcheck_of_the_out_form():
    x, scale, zero_point = data(6, 64)
    # Functionalisation takes no out= forms of custom ops, so these are all the checks that can be made.
    torch.library.opcheck(
        ops.fake_quantize.out, (x, scale, zero_point, ROWS, -8, 7), {"out": torch.empty_like(x)},
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


def results(function, made, places):
    out = function(*made)
    first = out[0] if isinstance(out, tuple) else out
    values = [t.detach().clone() for t in (out if isinstance(out, tuple) else (out,))]
    if places:
        first.backward(torch.linspace(-1, 1, first.numel()).reshape(first.shape))
        values += [made[p].grad for p in places]
    # What an op changed is a result too.
    return values + [t.detach() for t in made if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("name", SAMPLES)
def test_compiled_equals_eager_at_every_shape(name):
    op = getattr(ops, name).default

    def function(*given):
        return op(*given)

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for rows, columns in ((6, 64), (9, 33), (4, 96)):
        places = GRADIENTS.get(name, ())
        eager = results(function, arguments(name, rows, columns), places)
        traced = results(compiled, arguments(name, rows, columns), places)
        assert len(eager) == len(traced)
        for a, b in zip(eager, traced, strict=True):
            assert a.dtype == b.dtype
            if name.startswith(("learned_scale", "_learned_scale", "power_of_two", "_power_of_two")):
                torch.testing.assert_close(a, b)  # the compiler's own exp and log
            else:
                assert torch.equal(a, b), (rows, columns)
