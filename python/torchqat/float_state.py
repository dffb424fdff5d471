"""A float model's state_dict loaded into a prepared one: a BatchNorm that was folded has moved into its convolution's layer."""

from torch import nn


class _MovedBatchNorms:
    """A load_state_dict pre-hook: keys of BatchNorms, by what their names are now. An object, so that it can be pickled."""

    def __init__(self, moved: dict[str, str]):
        self.moved = moved

    def __call__(self, module, state_dict, prefix, *args):
        for old, new in self.moved.items():
            if not _is_there(module, new):
                continue  # converted: there is no BatchNorm left
            for key in [key for key in state_dict if key.startswith(f"{prefix}{old}.")]:
                own = key.removeprefix(f"{prefix}{old}.")
                if "." not in own:  # an activation in the BatchNorm's module stays where it was
                    state_dict[f"{prefix}{new}.{own}"] = state_dict.pop(key)


def _is_there(module: nn.Module, name: str) -> bool:
    try:
        module.get_submodule(name)
    except AttributeError:
        return False
    return True


def accept_float_names(model: nn.Module, folded: list[tuple[str, str]]) -> None:
    """Let a prepared model load the keys of BatchNorms under their names in the float model.

    Args:
        folded: names of convolution and BatchNorm. The module that holds both takes care of its own, so that it can be loaded alone.
    """
    moved: dict[str, dict[str, str]] = {}
    for conv, bn in folded:
        path, other = conv.split("."), bn.split(".")
        shared = next(i for i, (a, b) in enumerate(zip([*path, ""], [*other, ""])) if a != b or not a)
        within = moved.setdefault(".".join(path[:shared]), {})
        within[".".join(other[shared:])] = ".".join([*path[shared:], "bn"])
    for name, names in moved.items():
        if _is_there(model, name):
            model.get_submodule(name)._register_load_state_dict_pre_hook(_MovedBatchNorms(names), with_module=True)
