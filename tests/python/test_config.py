"""QuantSpec and QConfig: presets, ranges, and the message of every refused field."""

import pytest

from torchqat import QConfig, QuantSpec

PRESETS = [
    "int8",
    "int8_dynamic",
    "int8_weight_only",
    "int4_weight_only",
    "int4_int8",
    "int2_weight_only",
    "fp8",
    "mxfp8",
    "mxfp4",
    "nvfp4",
]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_are_hashable(name):
    config = getattr(QConfig, name)()
    assert QConfig.from_dict(config.to_dict()) == config
    assert hash(QConfig.from_dict(config.to_dict())) == hash(config)


def test_presets_say_what_the_contract_says():
    int8 = QConfig.int8()
    assert (int8.weight.dtype, int8.weight.granularity, int8.weight.symmetric) == ("int8", "channel", True)
    assert (int8.activation.dtype, int8.activation.granularity, int8.activation.observer) == ("uint8", "tensor", "ema")
    assert not int8.activation.symmetric
    dynamic = QConfig.int8_dynamic().activation
    assert (dynamic.dtype, dynamic.granularity, dynamic.observer, dynamic.symmetric) == (
        "uint8",
        "token",
        "dynamic",
        False,
    )
    assert QConfig.int4_weight_only(64).weight == QuantSpec("int4", "group:64", scale_dtype="bfloat16")
    assert QConfig.int4_int8().activation == dynamic
    assert QConfig.int2_weight_only().weight.scale_dtype == "bfloat16"
    assert QConfig.int4_weight_only().activation is None


def test_which_schemes_have_integer_kernels():
    assert {n for n in PRESETS if getattr(QConfig, n)().integer} == {"int8", "int8_dynamic", "int4_int8"}
    affine_weight = QuantSpec("uint4", "group:32", symmetric=False)
    assert not QConfig(affine_weight, QConfig.int8().activation).integer


@pytest.mark.parametrize(
    "dtype, role, expected",
    [
        ("int8", "weight", (-127, 127)),
        ("int8", "activation", (-128, 127)),
        ("int4", "weight", (-8, 7)),
        ("int3", "weight", (-4, 3)),
        ("int2", "weight", (-2, 1)),
        ("uint4", "activation", (0, 15)),
        ("uint8", "activation", (0, 255)),
    ],
)
def test_default_ranges(dtype, role, expected):
    assert QuantSpec(dtype).quant_range(role) == expected


def test_an_explicit_range_wins():
    assert QuantSpec("uint8", quant_max=127).quant_range("activation") == (0, 127)


@pytest.mark.parametrize(
    "dtype, bits",
    [
        ("int8", 8),
        ("uint4", 4),
        ("int2", 2),
        ("ternary", 2),
        ("binary", 1),
        ("e4m3fn", 8),
        ("mxfp6_e2m3", 6),
        ("nvfp4", 4),
        ("e2m1", 4),
    ],
)
def test_bits(dtype, bits):
    assert QuantSpec(dtype).bits == bits


def test_block_formats_have_their_block():
    assert QuantSpec("mxfp4").parsed_granularity.sizes == (32,)
    assert QuantSpec("nvfp4").parsed_granularity.sizes == (16,)
    assert QuantSpec("mxfp4", "group:8").parsed_granularity.sizes == (8,)


@pytest.mark.parametrize(
    "error, words, arguments",
    [
        (ValueError, "dtype must be int2 to int16.*got 'int1'", {"dtype": "int1"}),
        (ValueError, "dtype must be.*got 'float8'", {"dtype": "float8"}),
        (TypeError, "dtype must be a string, got int", {"dtype": 8}),
        (ValueError, "granularity must be.*got 'rows'", {"granularity": "rows"}),
        (ValueError, "at least 1.*got 'group:0'", {"granularity": "group:0"}),
        (ValueError, "got 'block:2'", {"granularity": "block:2"}),
        (TypeError, "symmetric must be a bool, got int", {"symmetric": 1}),
        (ValueError, "observer must be one of.*got 'max'", {"observer": "max"}),
        (ValueError, "estimator must be one of.*got 'adaround'", {"estimator": "adaround"}),
        (ValueError, "averaging_constant must be in", {"averaging_constant": 0.0}),
        (ValueError, "percentile must be in", {"percentile": 50}),
        (TypeError, "percentile must be a number", {"percentile": "99"}),
        (TypeError, "averaging_constant must be a number", {"averaging_constant": "0.1"}),
        (ValueError, "scale_dtype must be one of", {"scale_dtype": "float64"}),
        (ValueError, "scale_rounding must be one of", {"scale_rounding": "down"}),
        (ValueError, r"must lie in \[-8, 7\] of int4, got \[-8, 8\]", {"dtype": "int4", "quant_max": 8}),
        (ValueError, r"got \[3, 3\]", {"dtype": "int4", "quant_min": 3, "quant_max": 3}),
        (TypeError, "quant_min must be an int", {"quant_min": 1.0}),
        (ValueError, "quant_max needs an integer dtype", {"dtype": "mxfp4", "quant_max": 3}),
        (ValueError, "'lsq\\+' learns a zero point", {"estimator": "lsq+"}),
        (ValueError, "observer must not be 'dynamic'", {"estimator": "lsq", "observer": "dynamic"}),
        (ValueError, "cannot learn a scale per token", {"estimator": "lsq", "granularity": "token"}),
        (ValueError, "has no zero point", {"dtype": "mxfp8_e4m3", "symmetric": False}),
        (ValueError, "needs an integer dtype", {"dtype": "e4m3fn", "estimator": "lsq"}),
        (ValueError, "blocks along one dimension", {"dtype": "nvfp4", "granularity": "channel"}),
    ],
)
def test_refused_specs(error, words, arguments):
    with pytest.raises(error, match="QuantSpec: .*" + words):
        QuantSpec(**arguments)


@pytest.mark.parametrize(
    "error, words, arguments",
    [
        (ValueError, "weight or activation must be a QuantSpec", {}),
        (TypeError, "weight must be a QuantSpec or None, got str", {"weight": "int8"}),
        (ValueError, "backward must be one of.*got 'fast'", {"weight": QuantSpec(), "backward": "fast"}),
        (ValueError, "weight granularity must be", {"weight": QuantSpec(granularity="token")}),
        (ValueError, "weight observer must be", {"weight": QuantSpec(observer="ema")}),
        (ValueError, "uint4 must have symmetric=False", {"weight": QuantSpec("uint4")}),
        (ValueError, "weight must have at most 8 bits, got int12", {"weight": QuantSpec("int12")}),
        (ValueError, "activation granularity must be", {"activation": QuantSpec("uint8", "channel")}),
        (ValueError, "weight observer must be.*got 'percentile'", {"weight": QuantSpec(observer="percentile")}),
        (ValueError, "observer 'mse' needs an integer dtype", {"activation": QuantSpec("e4m3fn", observer="mse")}),
        (ValueError, "needs observer='dynamic'", {"activation": QuantSpec("uint8", "token")}),
        (ValueError, "is a weight format", {"activation": QuantSpec("ternary")}),
    ],
)
def test_refused_configs(error, words, arguments):
    with pytest.raises(error, match="QConfig: .*" + words):
        QConfig(**arguments)


def test_targets():
    assert QConfig.for_target("onnxruntime") == QConfig.int8()
    assert QConfig.for_target("tensorrt").activation.symmetric
    with pytest.raises(ValueError, match="for_target: name must be one of.*got 'tpu'"):
        QConfig.for_target("tpu")


def test_specs_are_frozen():
    with pytest.raises(AttributeError):
        QuantSpec().dtype = "int4"
