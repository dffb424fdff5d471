"""Names of formats and granularities, and what they mean; the tables that config.py checks against."""

import re
from dataclasses import dataclass

_INTEGER = re.compile(r"(u?)int(\d{1,2})")

# Largest finite value of each float grid.
FLOAT_GRID_MAX = {"e4m3fn": 448.0, "e5m2": 57344.0, "e3m2": 28.0, "e2m3": 7.5, "e2m1": 6.0}
# Float formats whose scales the op takes from the data, and their default block.
BLOCK_FORMATS = {"mxfp8_e4m3": 32, "mxfp8_e5m2": 32, "mxfp6_e3m2": 32, "mxfp6_e2m3": 32, "mxfp4": 32, "nvfp4": 16}
FLOAT_PREFIXES = {8: ("e4m3", "e5m2", "mxfp8"), 6: ("e3m2", "e2m3", "mxfp6"), 4: ("e2m1", "mxfp4", "nvfp4")}
LEVEL_FORMATS = ("ternary", "binary")


def has_block_product(input_format: str, input_block: int, weight_format: str, weight_block: int) -> bool:
    """Whether tensor cores multiply two block formats (linear_block_float): both MX or both NVFP4, in their own blocks, not e5m2 twice."""
    blocks = (BLOCK_FORMATS.get(input_format), BLOCK_FORMATS.get(weight_format))
    e5m2_twice = input_format == weight_format == "mxfp8_e5m2"
    return blocks[0] == blocks[1] == input_block == weight_block and not e5m2_twice


def parse_integer(dtype: str) -> tuple[int, bool] | None:
    """(bits, signed) of an integer format such as "int4" or "uint8"; None for any other name."""
    match = _INTEGER.fullmatch(dtype)
    if match is None or not 2 <= int(match[2]) <= 16:
        return None
    return int(match[2]), match[1] == ""


@dataclass(frozen=True)
class Granularity:
    """A parsed granularity: kind is tensor, channel, token, group or block; sizes is (32,) for group:32."""

    kind: str
    sizes: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Granularity":
        if text in ("tensor", "channel", "token"):
            return cls(text)
        match = re.fullmatch(r"group:(\d+)|block:(\d+)x(\d+)", text)
        sizes = tuple(int(s) for s in match.groups() if s is not None) if match else ()
        if not sizes or min(sizes) < 1:
            raise ValueError(
                'QuantSpec: granularity must be "tensor", "channel", "token", "group:32" or "block:128x128" '
                f"(with sizes of at least 1), got {text!r}"
            )
        return cls("group" if len(sizes) == 1 else "block", sizes)
