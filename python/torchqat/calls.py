"""How a user's batch or example inputs become a call of the model."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def call(model: nn.Module, batch):
    """model on a batch: a tuple or list is its arguments, a mapping (a tokenizer's batch too) its keywords, anything else its one
    argument."""
    if isinstance(batch, (tuple, list)):
        try:
            return model(*batch)
        except TypeError as error:
            error.add_note(
                f"torchqat calls the model with the {len(batch)} entries of a batch as its arguments; where a loader gives labels "
                "too, leave them out: (inputs for inputs, labels in loader)"
            )
            raise
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch)


def call_example(op: str, model: nn.Module, example_inputs):
    """call, where what the model raises says who called it."""
    try:
        return call(model, example_inputs)
    except Exception as error:
        error.add_note(f"{op}: raised by the model, which was run on example_inputs")
        raise


def tensors_in(batch) -> list[Tensor]:
    """The tensors that a batch holds."""
    leaves = torch.utils._pytree.tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
