"""The graph of a user's module whose forward does nothing but call its children on its input and on their results."""

import dis
from typing import NamedTuple

from torch import fx, nn

# What may happen beside the calls: nothing outside the module is read or written.
_HARMLESS = {
    "CACHE", "CALL", "COPY", "COPY_FREE_VARS", "EXTENDED_ARG", "LOAD_ATTR", "LOAD_CONST", "LOAD_FAST", "LOAD_METHOD",
    "NOP", "POP_TOP", "PRECALL", "PUSH_NULL", "RESUME", "RETURN_CONST", "RETURN_VALUE", "STORE_FAST", "SWAP", "LOAD_FAST_LOAD_FAST",
    "LOAD_FAST_BORROW", "LOAD_FAST_BORROW_LOAD_FAST_BORROW", "STORE_FAST_LOAD_FAST", "LOAD_SMALL_INT", "NOT_TAKEN", "TO_BOOL",
    "UNARY_NOT", "IS_OP", "COMPARE_OP", "BINARY_OP", "CALL_FUNCTION", "CALL_METHOD", "LOAD_ATTR_METHOD_LAZY_DICT",
}  # fmt: skip
_SETTINGS = (bool, int, float, str, type(None))


class _Children(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True


class PlainForward(NamedTuple):
    """The graph, and the settings of the module that it was made under."""

    graph: fx.Graph
    settings: tuple[str, ...]


def plain_forward(module: nn.Module) -> PlainForward | None:
    """The graph of such a module, or None.

    Its forward may read the module's children and its settings (bool, int, float, str or None); anything global, a method or a
    write, whose effect a graph would lose, makes it another kind of module.
    """
    code = getattr(type(module).forward, "__code__", None)
    if code is None or code.co_freevars or code.co_flags & 0x2AC:  # *args, **kwargs, generators, coroutines
        return None
    if not all(i.opname in _HARMLESS or "JUMP" in i.opname for i in dis.get_instructions(code)):
        return None
    own = vars(module)
    settings = tuple(name for name in code.co_names if name not in module._modules)
    if not all(name in own and isinstance(own[name], _SETTINGS) for name in settings):
        return None
    try:
        return PlainForward(_Children().trace(module), settings)
    except Exception:  # noqa: BLE001 - whatever a forward says of a stand-in for its input
        return None
