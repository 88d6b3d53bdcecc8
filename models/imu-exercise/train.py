"""Train the motion classifier: `python models/imu-exercise/train.py`, about three minutes on two cores.

Needs NumPy alone. Learns from subjects 1 to 7 and is scored on subjects 8, 9 and 10, whom it has never
seen; the split was fixed before the first run. Writes ``weights.npz`` beside this file.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from build import CHANNELS, EXERCISES, UNSEEN_SUBJECTS, WINDOW, architecture

from edgekit_optimize.zoo.recordings import Motion, motions, recording
from edgekit_optimize.zoo.training import Trainer, cross_entropy, forward, initial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_optimize.graph.network import Network

HOP = 25
WIDTHS, KERNEL = (32, 48, 64, 64), 5
EPOCHS, BATCH, RATE, SEED = 40, 64, 2e-3, 7


def random_weights(rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Return where training starts."""
    found: dict[str, NDArray[np.float32]] = {}
    channels = CHANNELS
    for number, width in enumerate(WIDTHS):
        found[f"conv{number}.weights"] = initial((width, KERNEL, 1, channels), rng)
        found[f"conv{number}.bias"] = np.zeros(width, np.float32)
        channels = width
    found["scores.weights"] = initial((len(EXERCISES), channels), rng)
    found["scores.bias"] = np.zeros(len(EXERCISES), np.float32)
    return found


def windows(recordings: list[Motion], hop: int = HOP) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return windows (n, 100, 6) as measured, and the index of each one's exercise."""
    found, classes = [], []
    for motion in recordings:
        starts = range(0, len(motion.samples) - WINDOW + 1, hop)
        found += [motion.samples[start : start + WINDOW] for start in starts]
        classes += [list(EXERCISES).index(motion.exercise)] * len(starts)
    return np.stack(found), np.array(classes)


def accuracy(network: Network, inputs: NDArray[np.float32], classes: NDArray[np.int64]) -> float:
    """Return the share of windows that are classified rightly."""
    found = np.concatenate([forward(network, part)["scores"] for part in np.array_split(inputs, 20)])
    return float((found.argmax(axis=1) == classes).mean())


def main() -> int:
    """Train, print the accuracy on unseen subjects after each fifth epoch, write the weights."""
    recordings = motions(recording("watch"))
    seen, classes = windows([m for m in recordings if m.subject not in UNSEEN_SUBJECTS])
    unseen, wanted = windows([m for m in recordings if m.subject in UNSEEN_SUBJECTS])
    mean, std = seen.mean(axis=(0, 1)), seen.std(axis=(0, 1))
    seen, unseen = (seen - mean) / std, (unseen - mean) / std
    rng = np.random.default_rng(SEED)
    trainer = Trainer(architecture(random_weights(rng)), cross_entropy, rate=RATE)
    started = time.monotonic()
    for epoch in range(EPOCHS):
        trainer.rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        order = rng.permutation(len(seen))
        losses = [
            trainer.step(augmented(seen[rows], rng), classes[rows])
            for rows in np.array_split(order, len(order) // BATCH)
        ]
        if epoch % 5 == 4:
            score = accuracy(trainer.network(), unseen, wanted)
            print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, unseen {score:.4f}", file=sys.stderr)
    arrays = {"mean": mean, "std": std}
    for layer in trainer.network().layers:
        if layer.weights is not None and layer.bias is not None:
            arrays[f"{layer.output}.weights"], arrays[f"{layer.output}.bias"] = layer.weights, layer.bias
    kept = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(Path(__file__).parent / "weights.npz", allow_pickle=False, **kept)
    print(f"{time.monotonic() - started:.0f} s, {trainer.network().parameter_count()} parameters")
    return 0


def augmented(batch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the windows a little louder or softer, offset and noisy, as another wrist would give them."""
    scale = rng.normal(1.0, 0.15, (len(batch), 1, CHANNELS))
    offset = rng.normal(0.0, 0.15, (len(batch), 1, CHANNELS))
    noise = rng.normal(0.0, 0.05, batch.shape)
    return (batch * scale + offset + noise).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
