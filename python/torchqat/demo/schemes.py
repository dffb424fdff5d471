"""What the demo compares: the quantisation schemes, from eight bits down to two."""

from collections.abc import Callable
from dataclasses import dataclass

from torchqat import QConfig, QuantSpec


@dataclass(frozen=True)
class Scheme:
    """One scheme: `weight_bits` and the QConfig that prepare_qat and quantize_ptq are given."""

    key: str
    title: str
    weight_bits: int
    qconfig: Callable[[], QConfig]
    ptq: bool = True
    learned: bool = False


def _narrow_weights(dtype: str, estimator: str = "ste") -> QConfig:
    """The int8 preset with narrower weights: one scale per output channel, activations uint8 per tensor."""
    weight = QuantSpec(dtype=dtype, granularity="channel", symmetric=True, estimator=estimator)
    return QConfig(weight=weight, activation=QConfig.int8().activation)


SCHEMES = (
    Scheme("int8", "int8", 8, QConfig.int8),
    Scheme("int4", "int4 weights, int8 activations", 4, lambda: _narrow_weights("int4")),
    Scheme("int2", "2-bit weights, int8 activations", 2, lambda: _narrow_weights("int2")),
    Scheme("int2-lsq", "2-bit weights, learned scales", 2, lambda: _narrow_weights("int2", "lsq"), ptq=False, learned=True),
)
