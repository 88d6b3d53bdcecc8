"""The motion classifier: a small convolutional network with the weights that ``train.py`` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.zoo.recordings import Motion, motions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgekit_optimize.zoo.build import Kit

WINDOW, CHANNELS = 100, 6
UNSEEN_SUBJECTS = frozenset({8, 9, 10})
_HOP = 25  # as pre.hop says
_GOLDEN_EVERY, _GOLDEN_START = 12, 300
# seglearn's short names in the order of the classes, and their meanings.
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}


def architecture(weights: Mapping[str, NDArray[np.float32]]) -> Network:
    """Return strided convolutions along time, a mean, and a dense layer, with these weights."""
    layers = [Layer("reshape", ("window",), "row", shape=(1, WINDOW, 1, CHANNELS))]
    names = {key.split(".")[0] for key in weights if key.startswith("conv")}
    for name in sorted(names):
        layers.append(
            Layer(
                "conv",
                (layers[-1].output,),
                name,
                weights=weights[f"{name}.weights"],
                bias=weights[f"{name}.bias"],
                stride=(2, 1),
                activation="relu",
            )
        )
    layers.append(Layer("mean", (layers[-1].output,), "features"))
    layers.append(
        Layer(
            "dense",
            ("features",),
            "scores",
            weights=weights["scores.weights"],
            bias=weights["scores.bias"],
        )
    )
    return Network({"window": (1, WINDOW, CHANNELS)}, tuple(layers), ("scores",))


def network(kit: Kit) -> Network:
    """Return the trained network."""
    with np.load(kit.folder / "weights.npz") as weights:
        return architecture(dict(weights))


def labels(_kit: Kit) -> list[str]:
    """Return the exercises."""
    return list(EXERCISES.values())


def golden(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return windows of four people and exercises that are not in the training data."""
    return [{"window": _window(motion, _GOLDEN_START)} for motion in _unseen(kit)[::_GOLDEN_EVERY]]


def evaluation(kit: Kit) -> tuple[list[dict[str, NDArray[Any]]], list[int]]:
    """Return the windows and exercises of the people outside the training data, without golden samples."""
    feeds, classes = [], []
    for number, motion in enumerate(_unseen(kit)):
        for start in range(0, len(motion.samples) - WINDOW + 1, _HOP):
            if start == _GOLDEN_START and number % _GOLDEN_EVERY == 0:
                continue
            feeds.append({"window": _window(motion, start)})
            classes.append(list(EXERCISES).index(motion.exercise))
    return feeds, classes


def _unseen(kit: Kit) -> list[Motion]:
    return [motion for motion in motions(kit.recording("watch")) if motion.subject in UNSEEN_SUBJECTS]


def _window(motion: Motion, start: int) -> NDArray[np.float32]:
    return motion.samples[start : start + WINDOW][np.newaxis]


def calibration(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return four windows of each recording of the people in the training data."""
    seen = [motion for motion in motions(kit.recording("watch")) if motion.subject not in UNSEEN_SUBJECTS]
    return [
        {"window": _window(motion, start)}
        for motion in seen
        for start in np.linspace(0, len(motion.samples) - WINDOW, 4).astype(int)
    ]
