"""Finds and loads libtorchqat.so, after checking that it was built for the torch that is imported."""

from pathlib import Path

import torch

_ROOT = Path(__file__).parent


def build_info() -> dict:
    """Versions and options this package was built with."""
    try:
        from torchqat import _C
    except ImportError as error:
        raise ImportError(
            "torchqat: the compiled part is missing; build it with `pip install .` (or `make build`) in the source tree"
        ) from error
    return _C.build_info()


def load_library() -> None:
    """Register the ops of libtorchqat.so in torch.ops.torchqat."""
    built_with = build_info()["torch_version"]
    if built_with != torch.__version__:
        raise ImportError(
            f"torchqat: built against torch {built_with}, but torch {torch.__version__} is imported; "
            "rebuild it: pip install --force-reinstall --no-deps torchqat (or `make build` in the source tree)"
        )
    torch.ops.load_library(str(_ROOT / "lib" / "libtorchqat.so"))


# For CMake: find_package(torchqat) with this on CMAKE_PREFIX_PATH.
cmake_prefix_path = str(_ROOT / "share" / "cmake")
