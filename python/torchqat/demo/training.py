"""The one training recipe of the demo, used alike for the float model, its float control and QAT."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from torchqat.demo.data import Digits, random_shift


@dataclass(frozen=True)
class Recipe:
    """AdamW under a one-cycle learning rate; `warmup` is the part of the steps in which the rate rises."""

    epochs: int
    learning_rate: float
    batch_size: int = 64
    weight_decay: float = 1e-2
    warmup: float = 0.25


@dataclass
class Curve:
    """One value per epoch: mean training loss and test accuracy in percent."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 250) -> Tensor:
    """Logits in eval mode [N, 10]; the model's mode is put back afterwards."""
    was_training = model.training
    model.eval()
    logits = torch.cat([model(part) for part in images.split(batch_size)])
    model.train(was_training)
    return logits


def accuracy(model: nn.Module, data: Digits) -> float:
    """Percent of the test split that is right."""
    return 100.0 * (predict(model, data.test_images).argmax(1) == data.test_labels).float().mean().item()


def train(
    model: nn.Module,
    data: Digits,
    recipe: Recipe,
    seed: int,
    *,
    on_epoch: Callable[[int], None] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Curve:
    """Train in place. The batches and shifts follow from the seed alone, so that QAT and its control see the same ones.

    Args:
        on_epoch: called with the epoch number at the start of each epoch, in training mode (to freeze BatchNorm, for instance).
        on_step: called after each step (progress bars).
    """
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    steps = len(data.train_labels) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, pct_start=recipe.warmup
    )
    curve = Curve()
    for epoch in range(recipe.epochs):
        model.train()
        if on_epoch is not None:
            on_epoch(epoch)
        order = torch.randperm(len(data.train_labels), generator=generator)
        total = torch.zeros(())
        for step in range(steps):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            images = random_shift(data.train_images[rows], generator)
            loss = nn.functional.cross_entropy(model(images), data.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
            if on_step is not None:
                on_step()
        curve.loss.append(total.item() / max(steps, 1))
        curve.accuracy.append(accuracy(model, data))
    model.eval()
    return curve
