"""Train the anomaly detector: `python models/ucr-anomaly/train.py`, seconds. Needs NumPy alone.

A dense autoencoder learns the normal part of series 135 of the UCR anomaly archive, and is scored
on the test part, whose one anomaly it has never seen. Writes ``weights.npz`` beside this file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from build import WINDOW, architecture, series

from edgekit_optimize.zoo.fetch import fetch
from edgekit_optimize.zoo.recipe import recipe
from edgekit_optimize.zoo.training import Trainer, forward, initial, squared_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_optimize.graph.network import Network

HOP, SMOOTHING = 4, 4
WIDTHS = (48, 16, 48)
EPOCHS, BATCH, RATE, SEED = 300, 64, 2e-3, 7
UCR_MARGIN = 100  # samples; Source: Wu and Keogh 2021, a peak this close to the anomaly is a hit


def random_weights(rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Return where training starts."""
    found: dict[str, NDArray[np.float32]] = {}
    size = WINDOW
    for number, width in enumerate((*WIDTHS, WINDOW)):
        found[f"dense{number}.weights"] = initial((width, size), rng)
        found[f"dense{number}.bias"] = np.zeros(width, np.float32)
        size = width
    return found


def windows(values: NDArray[np.float32], hop: int) -> NDArray[np.float32]:
    """Return windows (n, 96, 1)."""
    starts = range(0, len(values) - WINDOW + 1, hop)
    return np.stack([values[start : start + WINDOW] for start in starts])[..., np.newaxis]


def errors(network: Network, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the smoothed squared error of each window, as the decoder computes it."""
    rebuilt = forward(network, inputs)["reconstruction"]
    raw = ((rebuilt - inputs) ** 2).mean(axis=(1, 2))
    held = [raw[max(0, i - SMOOTHING + 1) : i + 1].mean() for i in range(len(raw))]
    return np.array(held, np.float32)


def main() -> int:
    """Train, write the weights, print how the test part scores."""
    pins = recipe("ucr-anomaly").package
    normal, _ = series(fetch(pins["train"]))
    values, is_anomaly = series(fetch(pins["test"]))
    mean, std = normal.mean(), normal.std()
    inputs = windows((normal - mean) / std, 1)
    rng = np.random.default_rng(SEED)
    trainer = Trainer(architecture(random_weights(rng)), squared_error, rate=RATE)
    for epoch in range(EPOCHS):
        trainer.rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        order = rng.permutation(len(inputs))
        for rows in np.array_split(order, len(order) // BATCH):
            batch = (inputs[rows] + rng.normal(0, 0.05, inputs[rows].shape)).astype(np.float32)
            trainer.step(batch, inputs[rows])
    network = trainer.network()
    arrays = {"mean": np.atleast_1d(mean), "std": np.atleast_1d(std)}
    for layer in network.layers:
        if layer.weights is not None and layer.bias is not None:
            arrays[f"{layer.output}.weights"], arrays[f"{layer.output}.bias"] = layer.weights, layer.bias
    kept = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(Path(__file__).parent / "weights.npz", allow_pickle=False, **kept)
    report(errors(network, windows((normal - mean) / std, HOP)), network, (values - mean) / std, is_anomaly)
    return 0


def report(
    seen: NDArray[np.float32], network: Network, values: NDArray[np.float32], is_anomaly: NDArray[np.bool_]
) -> None:
    """Print the threshold that the normal part suggests, and what it finds in the test part."""
    found = errors(network, windows(values, HOP))
    ends = np.arange(len(found)) * HOP + WINDOW
    first, last = np.flatnonzero(is_anomaly)[[0, -1]]
    is_near = (ends >= first) & (ends <= last + UCR_MARGIN + WINDOW)
    peak = int(ends[found.argmax()])
    print(f"normal: largest {seen.max():.4f}; anomaly at {first}..{last}")
    print(f"test: peak {found.max():.4f} at {peak}, median {np.median(found):.4f}")
    for factor in (1.5, 2.0, 3.0):
        threshold = factor * seen.max()
        outside = np.flatnonzero((found >= threshold) & ~is_near)
        alarms = 0 if not len(outside) else 1 + int((np.diff(outside) > SMOOTHING).sum())
        is_hit = bool((found[is_near] >= threshold).any())
        print(f"threshold {threshold:.4f}: hit {is_hit}, false alarms {alarms}")


if __name__ == "__main__":
    sys.exit(main())
