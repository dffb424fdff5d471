"""Which class replaces which: float -> QAT (prepare) and QAT -> deployed (convert). New layers are added here."""

from torch import nn

from torchqat.computed_weights import float_type
from torchqat.nn import qat, quantized, recurrent
from torchqat.nn.attention import MultiheadAttention
from torchqat.nn.bare_weight import FloatWeight
from torchqat.nn.qat.transposed_linear import is_transposed_linear

# Modules that are split into layers, forms that take decisions on their arguments, which a trace cannot follow.
SPLIT = {nn.MultiheadAttention: MultiheadAttention, **recurrent.SPLIT}
OPAQUE = tuple(SPLIT.values())

# Exact types (but for parametrized ones): a subclass may use its weight in ways of its own.
FLOAT_TO_QAT = {
    nn.Linear: qat.Linear,
    nn.Conv1d: qat.Conv1d,
    nn.Conv2d: qat.Conv2d,
    nn.Conv3d: qat.Conv3d,
    nn.ConvTranspose1d: qat.ConvTranspose1d,
    nn.ConvTranspose2d: qat.ConvTranspose2d,
    nn.ConvTranspose3d: qat.ConvTranspose3d,
    nn.Embedding: qat.Embedding,
    nn.EmbeddingBag: qat.EmbeddingBag,
    **SPLIT,
}


def qat_class(module: nn.Module) -> type | None:
    """What takes a float module's place in training; None where it stays as it is."""
    if is_transposed_linear(module):
        return qat.TransposedLinear
    if type(module) is FloatWeight:  # there are none in a float model until prepare_qat finds bare parameters
        return qat.BareWeight
    kind = float_type(module)
    if kind in SPLIT and (kind is not type(module) or kind in recurrent.SPLIT and not recurrent.keeps_weights(module)):
        return None  # they take parameters apart, and have none where weights are computed
    return FLOAT_TO_QAT.get(kind)


# Convolution -> (BatchNorm types that fold into it, the folded layer).
CONV_BN_TO_QAT = {
    nn.Conv1d: ((nn.BatchNorm1d, nn.SyncBatchNorm), qat.ConvBn1d),
    nn.Conv2d: ((nn.BatchNorm2d, nn.SyncBatchNorm), qat.ConvBn2d),
    nn.Conv3d: ((nn.BatchNorm3d, nn.SyncBatchNorm), qat.ConvBn3d),
}

# Modules that quantise indices' rows: an activation spec means nothing to them.
INDEX_INPUT = (nn.Embedding, nn.EmbeddingBag)


def deployed_class(layer: nn.Module) -> type:
    """The deployed class of a QAT layer: integer kernels where its scheme has them, else float on integer weights."""
    kind = next((k for k in QAT_TO_DEPLOYED if isinstance(layer, k)), None)
    if kind is None or layer.weight_fake_quant is None:
        raise ValueError(f"{type(layer).__name__} has no deployed form")
    integer, grouped, weight_only, float_grid = QAT_TO_DEPLOYED[kind]
    if layer.weight_fake_quant.is_float_grid():
        return float_grid
    if not layer.integer:
        return weight_only
    return grouped if layer.weight_fake_quant.group > 0 else integer


# QAT layer -> its deployed class with an integer input, with an integer input and weight groups, with a float
# input, and with a weight on a float grid.
QAT_TO_DEPLOYED = {
    **dict.fromkeys(
        (qat.Linear, qat.TransposedLinear),
        (quantized.Linear, quantized.LinearGrouped, quantized.LinearWeightOnly, quantized.LinearFloatGrid),
    ),
    **dict.fromkeys(
        (qat.Conv1d, qat.Conv2d, qat.Conv3d, qat.ConvBn1d, qat.ConvBn2d, qat.ConvBn3d),
        (quantized.Conv, quantized.ConvWeightOnly, quantized.ConvWeightOnly, quantized.ConvFloatGrid),
    ),
    **dict.fromkeys(
        (qat.ConvTranspose1d, qat.ConvTranspose2d, qat.ConvTranspose3d),
        (
            quantized.ConvTranspose,
            quantized.ConvTransposeWeightOnly,
            quantized.ConvTransposeWeightOnly,
            quantized.ConvTransposeFloatGrid,
        ),
    ),
    qat.BareWeight: (None, None, quantized.BareWeight, quantized.BareWeightFloatGrid),
    qat.Embedding: (None, None, quantized.Embedding, None),
    qat.EmbeddingBag: (None, None, quantized.EmbeddingBag, None),
}


def stands_for(config: dict, module: nn.Module) -> bool:
    """Whether a deployed layer of this config, from a file, may take a float module's place."""
    if config.get("transposed"):
        return is_transposed_linear(module)
    return float_type(module) in FLOAT_OF_DEPLOYED.get(config["layer"], ())


# Element-wise modules with a table form -> (the function's name, its argument).
TABLES = {
    nn.GELU: lambda m: ("gelu_tanh" if m.approximate == "tanh" else "gelu", 0.0),
    nn.SiLU: lambda m: ("silu", 0.0),
    nn.Sigmoid: lambda m: ("sigmoid", 0.0),
    nn.Tanh: lambda m: ("tanh", 0.0),
    nn.Hardswish: lambda m: ("hardswish", 0.0),
    nn.Hardsigmoid: lambda m: ("hardsigmoid", 0.0),
    nn.Mish: lambda m: ("mish", 0.0),
    nn.ELU: lambda m: ("elu", float(m.alpha)),
    nn.LeakyReLU: lambda m: ("leaky_relu", float(m.negative_slope)),
}

# Average pooling with an integer form, where its settings have one.
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)

# Integer forms of operations without weights.
FORM_TO_DEPLOYED = {
    qat.Activation: quantized.Activation,
    qat.Add: quantized.Add,
    qat.AvgPool: quantized.AvgPool,
    qat.Output: quantized.Output,
}

# By the name that a description (and so a file) carries.
DEPLOYED_LAYERS = {
    kind.__name__: kind
    for kind in (
        quantized.BareWeight,
        quantized.BareWeightFloatGrid,
        quantized.Conv,
        quantized.ConvFloatGrid,
        quantized.ConvTranspose,
        quantized.ConvTransposeFloatGrid,
        quantized.ConvTransposeWeightOnly,
        quantized.ConvWeightOnly,
        quantized.Embedding,
        quantized.EmbeddingBag,
        quantized.Linear,
        quantized.LinearFloatGrid,
        quantized.LinearGrouped,
        quantized.LinearWeightOnly,
        *FORM_TO_DEPLOYED.values(),
        quantized.MaxPool,
    )
}

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# In place of bare parameters.
BARE_WEIGHTS = ("BareWeight", "BareWeightFloatGrid")

# Float modules that a deployed one may stand in for, when a file is loaded.
FLOAT_OF_DEPLOYED = {
    **dict.fromkeys(BARE_WEIGHTS, (FloatWeight,)),
    "Conv": _CONVOLUTIONS,
    "ConvFloatGrid": _CONVOLUTIONS,
    "ConvTranspose": _TRANSPOSED,
    "ConvTransposeFloatGrid": _TRANSPOSED,
    "ConvTransposeWeightOnly": _TRANSPOSED,
    "ConvWeightOnly": _CONVOLUTIONS,
    "Embedding": (nn.Embedding,),
    "EmbeddingBag": (nn.EmbeddingBag,),
    "Linear": (nn.Linear,),
    "LinearFloatGrid": (nn.Linear,),
    "LinearGrouped": (nn.Linear,),
    "LinearWeightOnly": (nn.Linear,),
    "Activation": tuple(TABLES),
    "AvgPool": tuple(AVERAGES),
    "MaxPool": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
}
