"""What the demo compares: the quantisation schemes, from eight bits down to two."""

from collections.abc import Callable
from dataclasses import dataclass

from torchqat import QConfig, QuantSpec


@dataclass(frozen=True)
class Scheme:
    """One scheme: the QConfig that prepare_qat and quantize_ptq are given. Activations are 8-bit integers in all of them.

    ptq: whether PTQ is measured too (a learned scale means nothing to it); learned: scales are trained (LSQ); twin: it is also
    trained with its integers simulated in float, to compare.
    """

    key: str
    title: str
    weight_bits: int
    qconfig: Callable[[], QConfig]
    ptq: bool = True
    learned: bool = False
    twin: bool = False


def _narrow_weights(dtype: str, estimator: str = "ste") -> QConfig:
    """The int8 preset with narrower weights: one scale per output channel, activations uint8 per tensor."""
    weight = QuantSpec(dtype=dtype, granularity="channel", symmetric=True, estimator=estimator)
    return QConfig(weight=weight, activation=QConfig.int8().activation)


SCHEMES = (
    Scheme("int8", "int8", 8, QConfig.int8, twin=True),
    Scheme("int4", "int4 weights", 4, lambda: _narrow_weights("int4")),
    Scheme("int3-lsq", "3-bit weights LSQ", 3, lambda: _narrow_weights("int3", "lsq"), ptq=False, learned=True),
    Scheme("int2", "2-bit weights", 2, lambda: _narrow_weights("int2"), twin=True),
    Scheme("int2-lsq", "2-bit weights LSQ", 2, lambda: _narrow_weights("int2", "lsq"), ptq=False, learned=True),
)
