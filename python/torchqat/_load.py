"""Finds and loads libtorchqat.so, after checking that it was built for the torch that is imported."""

import hashlib
from pathlib import Path

import torch
import torch.compiler.config

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
    _tag_compile_caches()


def _tag_compile_caches() -> None:
    """Keep torch.compile from reusing a graph that it cached with another torchqat.

    Its caches know the public op that a graph calls, not the inner ops that a compiled graph consists of.
    """
    config = torch.compiler.config
    names = sorted(n for n in torch._C._dispatch_get_all_op_names() if n.startswith("torchqat::"))
    schemas = [str(s) for name in names for s in torch._C._jit_get_schemas_for_operator(name.split(".")[0])]
    digest = hashlib.sha256("\n".join(schemas).encode()).hexdigest()[:16]
    if hasattr(config, "cache_key_tag") and digest not in config.cache_key_tag:
        config.cache_key_tag += f"torchqat-{digest}"


# For CMake: find_package(torchqat) with this on CMAKE_PREFIX_PATH.
cmake_prefix_path = str(_ROOT / "share" / "cmake")
