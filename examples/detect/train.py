# ruff: noqa: INP001 - a user's folder, no package
"""Trains the detector on made scenes: ``python train.py``, five minutes on one core; needs torch.

Writes ``weights.npz`` beside this file. ``--steps N`` for more or fewer.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
import torch
from net import CLASSES, LAYERS, SIDE, WEIGHTS, anchors
from numpy.typing import NDArray
from scenes import scene
from torch import Tensor, nn

BATCH, RATE, SEED, POOL = 32, 4e-3, 3, 4096
Pixels = NDArray[Any]
_SIZES = {8: (0, 28), 16: (28, 52), 32: (52, 999)}
"""The longer sides in pixels of the shapes that each stride learns."""


class Net(nn.Module):
    """The layers of ``net.LAYERS``, with a 1 x 1 convolution as the head of each level."""

    def __init__(self) -> None:
        super().__init__()
        for name, inside, outside, stride in LAYERS:
            self.add_module(name, nn.Conv2d(inside, outside, 3, stride, 1))
            if name.startswith("level"):
                self.add_module(name.replace("level", "head"), nn.Conv2d(outside, 4 + CLASSES, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return [batch, 4 + classes, cells]: logarithms of distances in strides, logits of classes."""
        parts, last = [], images
        modules = dict(self.named_children())
        for name, *_ in LAYERS:
            last = torch.relu(modules[name](last))
            if name.startswith("level"):
                parts.append(modules[name.replace("level", "head")](last).flatten(2))
        return torch.cat(parts, 2)


def pool() -> tuple[Tensor, ...]:
    """Return ``POOL`` pictures, and for each cell whether it is of a shape, which, and its sides."""
    rows = [targets(*scene(1_000_000 + number)) for number in range(POOL)]
    return tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))


def targets(pixels: Pixels, shapes: NDArray[np.float32]) -> tuple[Pixels, ...]:
    """Return a picture as RGB planes, and its targets by cell."""
    cells = anchors()
    which, sides = np.full(len(cells), -1), np.ones((len(cells), 4), np.float32)
    low, high = np.array([_SIZES[int(stride)] for stride in cells[:, 2]]).T
    for kind, *box in shapes:
        size = max(box[2] - box[0], box[3] - box[1])
        middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        near = np.abs(cells[:, :2] - middle).max(axis=1) <= np.maximum(cells[:, 2] * 0.75, size / 8)
        mine = near & (low <= size) & (size < high)
        which[mine] = kind
        sides[mine] = np.abs(cells[mine, :2][:, [0, 1, 0, 1]] - np.array(box)) / cells[mine, 2:]
    planes = np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1))
    return planes, which >= 0, which, np.maximum(sides, 0.05)


def loss_of(raw: Tensor, found: Tensor, which: Tensor, sides: Tensor) -> Tensor:
    """Return the loss: focal cross-entropy of the classes, and 1 - IoU of the boxes."""
    logits = raw[:, 4:].transpose(1, 2)
    wanted = nn.functional.one_hot(which.clamp(min=0), CLASSES).float() * found[..., None]
    chance = torch.sigmoid(logits)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    focal = (entropy * (wanted - chance).abs() ** 2).sum() / found.sum().clamp(min=1)
    guessed, right = raw[:, :4].transpose(1, 2)[found].exp(), sides[found]
    shared = torch.minimum(guessed, right)
    both = (shared[:, :2] + shared[:, 2:]).prod(1)
    union = sum((s[:, :2] + s[:, 2:]).prod(1) for s in (guessed, right)) - both
    return focal + (1 - both / union.clamp(min=1e-6)).mean()


def main() -> int:
    """Train, print the loss, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    net = Net()
    for name, module in net.named_children():
        if name.startswith("head"):
            nn.init.constant_(module.bias[4:], -4.0)  # few cells are of a shape
            nn.init.constant_(module.bias[:4], 0.5)
    optimizer = torch.optim.AdamW(net.parameters(), RATE / 10, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    started, losses = time.monotonic(), []
    scenes, *wanted = pool()
    for step in range(steps):
        rows = torch.randint(POOL, (BATCH,))
        loss = loss_of(net(scenes[rows].float() / 255), *(column[rows] for column in wanted))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 100 == 99:
            print(f"step {step + 1}: loss {np.mean(losses[-100:]):.3f}", file=sys.stderr)
    kept = {name: tensor.numpy().astype(np.float16) for name, tensor in net.state_dict().items()}
    np.savez_compressed(WEIGHTS, **kept)
    print(f"{time.monotonic() - started:.0f} s, {sum(a.size for a in kept.values())} numbers, side {SIDE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
