"""What to quantise and how: QuantSpec (one tensor) and QConfig (one module). Frozen, validated once, plain data.

Formats and their ranges live in formats.py and QuantSpec; nothing else in the package spells out a range.
"""

import dataclasses
from dataclasses import dataclass, field

from torchqat.formats import BLOCK_FORMATS, FLOAT_GRID_MAX, FLOAT_PREFIXES, LEVEL_FORMATS, Granularity, parse_integer

OBSERVERS = ("minmax", "ema", "percentile", "mse", "histogram", "dynamic")
HISTOGRAM_OBSERVERS = ("percentile", "mse", "histogram")
ESTIMATORS = ("ste", "lsq", "lsq+", "pact", "dorefa", "tqt", "stochastic")
SCALE_DTYPES = ("float32", "float16", "bfloat16")
SCALE_ROUNDINGS = ("floor", "ceil", "rceil", "even")
BACKWARDS = ("auto", "float32", "bfloat16", "int16")
LEARNED = ("lsq", "lsq+", "pact", "tqt")


def _one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"QuantSpec: {name} must be one of {', '.join(allowed)}, got {value!r}")


def _typed(owner, name, value, kind, words):
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{owner}: {name} must be {words}, got {type(value).__name__}")


@dataclass(frozen=True)
class QuantSpec:
    """How one tensor is quantised.

    Args:
        dtype: an integer format (int8 uint8 int4 uint4 int3 int2 ... up to 16 bits), "ternary", "binary", or a float
            format: e4m3fn e5m2 e3m2 e2m3 e2m1 mxfp8_e4m3 mxfp8_e5m2 mxfp6_e3m2 mxfp6_e2m3 mxfp4 nvfp4.
        granularity: which elements share a scale. "tensor"; "channel" (the output channel of a weight); "token" (the last
            dimension; on inputs of convolutions: each sample); "group:32" (along the input channels); "block:128x128".
        symmetric: zero point 0. Unsigned affine activations want False.
        observer: where the scale comes from. "minmax" and "ema" keep a range over the batches (weights: the current
            weight's own range); "percentile", "mse" and "histogram" keep a histogram and clip it, at a percentile or where
            the squared error is least (weights: "mse" looks at the current weight); "dynamic" looks at each input.
        estimator: the gradient. "ste" straight through; "lsq" learns the scale, "lsq+" the zero point too; "tqt" learns a
            power-of-two scale; "pact" learns the clipping bound of an activation; "dorefa" rounds tanh(w) / max|tanh(w)| of a
            weight, and activations clamped to [0, 1]; "stochastic" rounds at random in training, straight through. Scales
            of "lsq" and "pact" train under SGD and Adam alike, those of "tqt" want Adam.
        averaging_constant: weight of the newest batch in "ema".
        percentile: of |x| (or of each side) that "percentile" keeps.
        scale_dtype: "float32", "float16" or "bfloat16": scales are rounded to it before use, in training too.
        scale_rounding: of the power-of-two scales of the MX formats: floor, ceil, rceil or even.
        quant_min, quant_max: a narrower integer range than the format's own.

    Raises:
        ValueError, TypeError: naming the field, what is required and what came.

    Example:
        >>> import torchqat
        >>> torchqat.QuantSpec("int4", granularity="group:32").quant_range("weight")
        (-8, 7)
    """

    dtype: str = "int8"
    granularity: str = "tensor"
    symmetric: bool = True
    observer: str = "minmax"
    estimator: str = "ste"
    averaging_constant: float = field(default=0.05, kw_only=True)
    percentile: float = field(default=99.99, kw_only=True)
    scale_dtype: str = field(default="float32", kw_only=True)
    scale_rounding: str = field(default="floor", kw_only=True)
    quant_min: int | None = field(default=None, kw_only=True)
    quant_max: int | None = field(default=None, kw_only=True)

    def __post_init__(self):
        for name in ("dtype", "granularity", "observer", "estimator", "scale_dtype", "scale_rounding"):
            _typed("QuantSpec", name, getattr(self, name), str, "a string")
        _typed("QuantSpec", "symmetric", self.symmetric, bool, "a bool")
        _one_of("observer", self.observer, OBSERVERS)
        _one_of("estimator", self.estimator, ESTIMATORS)
        _one_of("scale_dtype", self.scale_dtype, SCALE_DTYPES)
        _one_of("scale_rounding", self.scale_rounding, SCALE_ROUNDINGS)
        _typed("QuantSpec", "averaging_constant", self.averaging_constant, (int, float), "a number")
        if not 0.0 < self.averaging_constant <= 1.0:
            raise ValueError(f"QuantSpec: averaging_constant must be in (0, 1], got {self.averaging_constant}")
        _typed("QuantSpec", "percentile", self.percentile, (int, float), "a number")
        if not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"QuantSpec: percentile must be in (50, 100], got {self.percentile}")
        if not (self.is_integer or self.is_float or self.dtype in LEVEL_FORMATS):
            formats = (*FLOAT_GRID_MAX, *BLOCK_FORMATS, *LEVEL_FORMATS)
            raise ValueError(
                f"QuantSpec: dtype must be int2 to int16, uint2 to uint16, or one of {', '.join(formats)}, got {self.dtype!r}"
            )
        self._check_float_or_levels()
        self._check_range()
        granularity = Granularity.parse(self.granularity)
        if self.estimator == "lsq+" and self.symmetric:
            raise ValueError("QuantSpec: estimator 'lsq+' learns a zero point and so needs symmetric=False")
        if self.estimator in ("pact", "dorefa", "tqt") and not self.symmetric:
            raise ValueError(f"QuantSpec: estimator {self.estimator!r} has no zero point and so needs symmetric=True")
        if self.estimator == "pact" and granularity.kind != "tensor":
            raise ValueError(
                f"QuantSpec: estimator 'pact' learns one clipping bound; granularity must be 'tensor', got {self.granularity!r}"
            )
        if self.estimator == "dorefa" and granularity.kind not in ("tensor", "channel"):
            raise ValueError(
                f"QuantSpec: estimator 'dorefa' needs granularity 'tensor' or 'channel', got {self.granularity!r}"
            )
        if self.estimator in LEARNED and self.observer == "dynamic":
            raise ValueError(
                f"QuantSpec: estimator {self.estimator!r} learns the scale; observer must not be 'dynamic'"
            )
        if self.estimator in LEARNED and granularity.kind == "token":
            raise ValueError(
                f"QuantSpec: estimator {self.estimator!r} cannot learn a scale per token; use granularity 'tensor'"
            )

    def _check_float_or_levels(self):
        if self.is_integer:
            return
        if not self.symmetric:
            raise ValueError(f"QuantSpec: dtype {self.dtype!r} has no zero point; symmetric must be True")
        if self.estimator != "ste":
            raise ValueError(f"QuantSpec: estimator {self.estimator!r} needs an integer dtype, got {self.dtype!r}")
        if self.dtype in BLOCK_FORMATS and self.granularity != "tensor" and not self.granularity.startswith("group:"):
            raise ValueError(
                f"QuantSpec: {self.dtype} has blocks along one dimension; granularity must be 'group:N', got {self.granularity!r}"
            )

    def _check_range(self):
        for name in ("quant_min", "quant_max"):
            if getattr(self, name) is not None:
                _typed("QuantSpec", name, getattr(self, name), int, "an int")
                if not self.is_integer:
                    raise ValueError(f"QuantSpec: {name} needs an integer dtype, got {self.dtype!r}")
        if self.is_integer:
            low, high = self.quant_range("activation")
            full_low, full_high = self.full_range()
            if not full_low <= low < high <= full_high:
                raise ValueError(
                    f"QuantSpec: quant_min < quant_max must lie in [{full_low}, {full_high}] of {self.dtype}, got [{low}, {high}]"
                )

    def check_estimator(self, owner: str, role: str) -> None:
        """Raises where the estimator means nothing for role "weight" or "activation"."""
        unsigned = self.is_integer and self.full_range()[0] == 0
        if self.estimator == "pact" and role == "weight":
            raise ValueError(
                f"{owner}: weight estimator must not be 'pact', which learns the clipping bound of activations; use 'lsq' or 'tqt'"
            )
        if self.estimator == "dorefa" and role == "activation" and not (unsigned and self.granularity == "tensor"):
            raise ValueError(
                f"{owner}: activations of estimator 'dorefa' are clamped to [0, 1]; they need an unsigned dtype and granularity "
                f"'tensor', got {self.dtype!r} and {self.granularity!r}"
            )

    @property
    def is_integer(self) -> bool:
        return parse_integer(self.dtype) is not None

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOAT_GRID_MAX or self.dtype in BLOCK_FORMATS

    @property
    def bits(self) -> int:
        """Bits that a code takes in a file."""
        if self.is_integer:
            return parse_integer(self.dtype)[0]
        if self.dtype in LEVEL_FORMATS:
            return 2 if self.dtype == "ternary" else 1
        return next(bits for bits in (8, 6, 4) if self.dtype.startswith(FLOAT_PREFIXES[bits]))

    @property
    def parsed_granularity(self) -> Granularity:
        if self.dtype in BLOCK_FORMATS and self.granularity == "tensor":
            return Granularity("group", (BLOCK_FORMATS[self.dtype],))
        return Granularity.parse(self.granularity)

    def full_range(self) -> tuple[int, int]:
        bits, signed = parse_integer(self.dtype)
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)

    def quant_range(self, role: str) -> tuple[int, int]:
        """Smallest and largest code for role "weight" or "activation". Symmetric int8 weights leave -128 out."""
        if self.dtype in LEVEL_FORMATS:
            return -1, 1
        low, high = self.full_range()
        if role == "weight" and self.dtype == "int8" and self.symmetric:
            low = -127
        return (low if self.quant_min is None else self.quant_min, high if self.quant_max is None else self.quant_max)

    def to_dict(self) -> dict:
        """The fields that differ from their defaults, as JSON can hold them."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name == "dtype" or getattr(self, f.name) != f.default
        }


@dataclass(frozen=True)
class QConfig:
    """How one module is quantised: its weight, its input, and how its backward computes.

    Args:
        weight: QuantSpec of the weight, or None to leave it in float.
        activation: QuantSpec of the module's input, or None.
        backward: "float32", "bfloat16", "int16" (the gradient as 16-bit integers) or "auto", of integer layers.

    Raises:
        ValueError, TypeError: for combinations that mean nothing, such as a weight scale per token.

    Example:
        >>> import torchqat
        >>> torchqat.QConfig.int8().activation.dtype
        'uint8'
    """

    weight: QuantSpec | None = None
    activation: QuantSpec | None = None
    backward: str = "auto"

    def __post_init__(self):
        for name in ("weight", "activation"):
            if getattr(self, name) is not None:
                _typed("QConfig", name, getattr(self, name), QuantSpec, "a QuantSpec or None")
        if self.backward not in BACKWARDS:
            raise ValueError(f"QConfig: backward must be one of {', '.join(BACKWARDS)}, got {self.backward!r}")
        if self.weight is None and self.activation is None:
            raise ValueError(
                "QConfig: weight or activation must be a QuantSpec; to leave a module in float use overrides={...: None}"
            )
        if self.weight is not None:
            self._check_weight(self.weight)
        if self.activation is not None:
            self._check_activation(self.activation)

    @staticmethod
    def _check_weight(spec):
        spec.check_estimator("QConfig", "weight")
        if spec.parsed_granularity.kind == "token":
            raise ValueError("QConfig: weight granularity must be tensor, channel, group or block, got 'token'")
        if spec.observer in ("ema", "percentile", "histogram"):
            raise ValueError(
                f"QConfig: weight observer must be minmax, mse or dynamic (the current weight is looked at), got {spec.observer!r}"
            )
        if spec.is_integer and spec.bits > 8:
            raise ValueError(f"QConfig: weight must have at most 8 bits, got {spec.dtype}")
        if spec.is_integer and spec.symmetric and spec.full_range()[0] == 0:
            raise ValueError(
                f"QConfig: a weight of {spec.dtype} must have symmetric=False, or lose its negative values"
            )

    @staticmethod
    def _check_activation(spec):
        spec.check_estimator("QConfig", "activation")
        kind = spec.parsed_granularity.kind
        if spec.dtype in LEVEL_FORMATS:
            raise ValueError(
                f"QConfig: {spec.dtype} is a weight format; activation dtype must be an integer or float format"
            )
        if kind in ("channel", "block"):
            raise ValueError(
                f"QConfig: activation granularity must be tensor, token or group, got {spec.granularity!r}"
            )
        if spec.observer in HISTOGRAM_OBSERVERS and not spec.is_integer:
            raise ValueError(
                f"QConfig: activation observer {spec.observer!r} needs an integer dtype, got {spec.dtype!r}"
            )
        if kind != "tensor" and spec.observer != "dynamic" and spec.dtype not in BLOCK_FORMATS:
            raise ValueError(
                f"QConfig: activation granularity {spec.granularity!r} needs observer='dynamic', got {spec.observer!r}"
            )

    @property
    def integer(self) -> bool:
        """Whether both operands are integer with a symmetric weight, so that layers compute with integer kernels."""
        w, a = self.weight, self.activation
        if (
            w is None
            or a is None
            or not a.is_integer
            or a.bits > 8
            or a.parsed_granularity.kind not in ("tensor", "token")
        ):
            return False
        if w.dtype in LEVEL_FORMATS:
            return w.parsed_granularity.kind in ("tensor", "channel")
        return (
            w.is_integer and w.bits <= 8 and w.symmetric and w.parsed_granularity.kind in ("tensor", "channel", "group")
        )

    def to_dict(self) -> dict:
        spec = {name: getattr(self, name) for name in ("weight", "activation")}
        return {**{n: s.to_dict() for n, s in spec.items() if s is not None}, "backward": self.backward}

    @classmethod
    def from_dict(cls, fields: dict) -> "QConfig":
        specs = {name: QuantSpec(**fields[name]) for name in ("weight", "activation") if name in fields}
        return cls(**specs, backward=fields.get("backward", "auto"))

    @classmethod
    def int8(cls) -> "QConfig":
        """int8 symmetric weights per channel, uint8 affine activations per tensor with running ranges."""
        return cls(QuantSpec("int8", "channel"), QuantSpec("uint8", symmetric=False, observer="ema"))

    @classmethod
    def int8_dynamic(cls) -> "QConfig":
        """int8 weights per channel, uint8 affine activations per token from each input: no calibration."""
        return cls(QuantSpec("int8", "channel"), _per_token())

    @classmethod
    def int8_weight_only(cls) -> "QConfig":
        """int8 weights per channel, float activations."""
        return cls(QuantSpec("int8", "channel"))

    @classmethod
    def int4_weight_only(cls, group_size: int = 32) -> "QConfig":
        """int4 weights in groups with bfloat16 scales, float activations."""
        return cls(_grouped("int4", group_size))

    @classmethod
    def int4_int8(cls, group_size: int = 32) -> "QConfig":
        """int4 weights in groups with bfloat16 scales, uint8 affine activations per token from each input."""
        return cls(_grouped("int4", group_size), _per_token())

    @classmethod
    def int2_weight_only(cls, group_size: int = 64) -> "QConfig":
        """int2 weights in groups with bfloat16 scales of least squared error, float activations."""
        return cls(_grouped("int2", group_size))

    @classmethod
    def fp8(cls) -> "QConfig":
        """e4m3fn weights per channel, e4m3fn activations per token."""
        return cls(QuantSpec("e4m3fn", "channel"), QuantSpec("e4m3fn", "token", observer="dynamic"))

    @classmethod
    def mxfp8(cls) -> "QConfig":
        """MXFP8 (e4m3) weights and activations in blocks of 32."""
        return cls(QuantSpec("mxfp8_e4m3"), QuantSpec("mxfp8_e4m3", observer="dynamic"))

    @classmethod
    def mxfp4(cls) -> "QConfig":
        """MXFP4 weights and activations in blocks of 32."""
        return cls(QuantSpec("mxfp4"), QuantSpec("mxfp4", observer="dynamic"))

    @classmethod
    def nvfp4(cls) -> "QConfig":
        """NVFP4 weights and activations in blocks of 16 with e4m3 block scales."""
        return cls(QuantSpec("nvfp4"), QuantSpec("nvfp4", observer="dynamic"))

    @classmethod
    def for_target(cls, name: str) -> "QConfig":
        """The preset that a deployment target computes with.

        Args:
            name: "torchqat", "onnxruntime", "openvino", "tensorrt", "executorch", "llama.cpp" or "blackwell".
        """
        if name not in _TARGETS:
            raise ValueError(f"QConfig.for_target: name must be one of {', '.join(_TARGETS)}, got {name!r}")
        return _TARGETS[name]()

    @classmethod
    def _tensorrt(cls) -> "QConfig":
        return cls(QuantSpec("int8", "channel"), QuantSpec("int8", symmetric=True, observer="ema"))


def _per_token() -> QuantSpec:
    return QuantSpec("uint8", "token", symmetric=False, observer="dynamic")


def _grouped(dtype: str, group_size: int) -> QuantSpec:
    _typed("QConfig", "group_size", group_size, int, "an int")
    return QuantSpec(dtype, f"group:{group_size}", scale_dtype="bfloat16")


_TARGETS = {
    "torchqat": QConfig.int8,
    "onnxruntime": QConfig.int8,
    "openvino": QConfig.int8,
    "tensorrt": QConfig._tensorrt,
    "executorch": QConfig.int4_int8,
    "llama.cpp": QConfig.int4_weight_only,
    "blackwell": QConfig.nvfp4,
}
